# MaskCLIP, CLIP RN50x16, PASCAL Context, 59 classes. Published: 20.3 mIoU.
_base_ = [
    '../_base_/models/maskclip_rn50x16.py',
    '../_base_/datasets/context59.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='context59')
