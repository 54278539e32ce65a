_base_ = './clip_baselines/clip_mask-rcnn_shapes.py'
