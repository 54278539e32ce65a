# DenseCLIP, CLIP RN50, ADE20K. Published: 43.5 mIoU, 44.7 with multi-scale and flip.
_base_ = [
    '../_base_/models/denseclip_rn50.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/schedules/denseclip_80k.py',
    '../_base_/default_runtime.py',
]
