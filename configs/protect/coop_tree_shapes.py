# What protect_shapes.py adds to: CoOp's prompt with cross-entropy over the leaves alone.
_base_ = './protect_shapes.py'

model = dict(loss=dict(beta=0.0, weight=0.0))
