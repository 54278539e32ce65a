_base_ = './clip_baselines/clip_fpn_shapes.py'
