# F-VLM, CLIP RN50x4, OV-LVIS: 866 base and 337 novel classes. Published: mask APr 26.3.
_base_ = [
    '../_base_/models/f_vlm_mask_rn50.py',
    '../_base_/datasets/ov-lvis_lsj-1024.py',
    '../_base_/schedules/f_vlm.py',
    '../_base_/detection_runtime_iters.py',
]

max_iters = 46100  # of 256 images: 100 epochs
train_dataloader = dict(batch_size=32, sampler=dict(type='InfiniteSampler'))
optim_wrapper = dict(optimizer=dict(lr=0.36))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=500),
    dict(type='MultiStepLR', milestones=[36880, 41490, 43795], gamma=0.1, by_epoch=False),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
clip = dict(arch='RN50x4')
model = dict(backbone=clip, text_encoder=clip)
