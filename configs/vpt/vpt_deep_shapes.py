# VPT-deep, 16 shots, on drawn scenes by night: every block has tokens of its own.
_base_ = './vpt_shapes.py'

model = dict(image_prompt=dict(depth=4))
