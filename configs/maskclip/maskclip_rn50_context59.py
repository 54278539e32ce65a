# MaskCLIP, CLIP RN50, PASCAL Context, 59 classes. Published: 18.5 mIoU.
_base_ = [
    '../_base_/models/maskclip_rn50.py',
    '../_base_/datasets/context59.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='context59')
