# MaskCLIP, CLIP RN50, PASCAL VOC, 20 classes. Published: 41.5 mIoU.
_base_ = [
    '../_base_/models/maskclip_rn50.py',
    '../_base_/datasets/voc20.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='voc20')
