# MaskCLIP, CLIP RN50x16, PASCAL VOC, 20 classes. Published: 50.9 mIoU.
_base_ = [
    '../_base_/models/maskclip_rn50x16.py',
    '../_base_/datasets/voc20.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='voc20')
