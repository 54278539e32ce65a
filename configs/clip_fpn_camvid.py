_base_ = './clip_baselines/clip_fpn_camvid.py'
