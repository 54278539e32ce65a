# MaskCLIP, CLIP ViT-B/16, PASCAL Context, 59 classes. Published: 21.7 mIoU.
_base_ = [
    '../_base_/models/maskclip_vit-b16.py',
    '../_base_/datasets/context59.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='context59')
