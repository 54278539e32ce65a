# CLIP RN50 with a semantic FPN and no text, ADE20K. Published: 39.6 mIoU, 41.6 with multi-scale and flip.
_base_ = [
    '../_base_/models/clip_fpn_rn50.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/denseclip_80k.py',
    '../_base_/default_runtime.py',
]
