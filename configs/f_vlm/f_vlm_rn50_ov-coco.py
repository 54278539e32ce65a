# F-VLM, CLIP RN50, OV-COCO: 48 base and 17 novel classes. Published: novel AP50 28.0.
_base_ = [
    '../_base_/models/f_vlm_rn50.py',
    '../_base_/datasets/ov-coco_lsj-1024.py',
    '../_base_/schedules/f_vlm.py',
    '../_base_/detection_runtime_iters.py',
]

train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
