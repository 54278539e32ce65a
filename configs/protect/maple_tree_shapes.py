# What protect_maple_shapes.py adds to: MaPLe's prompts with cross-entropy over the leaves alone.
_base_ = './protect_maple_shapes.py'

model = dict(loss=dict(beta=0.0, weight=0.0))
