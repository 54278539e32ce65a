# MaskCLIP, CLIP ViT-B/16, PASCAL VOC, 20 classes. Published: 49.5 mIoU.
_base_ = [
    '../_base_/models/maskclip_vit-b16.py',
    '../_base_/datasets/voc20.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='voc20')
