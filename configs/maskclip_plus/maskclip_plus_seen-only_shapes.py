# What maskclip_plus_zero-shot_shapes.py is compared with: pixels of crescents and hearts are ignored.
_base_ = './maskclip_plus_zero-shot_shapes.py'

model = dict(start_clip_guided=(-1, -1), start_self_train=(-1, -1))
