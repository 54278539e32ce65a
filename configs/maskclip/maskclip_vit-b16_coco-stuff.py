# MaskCLIP, CLIP ViT-B/16, COCO-Stuff, 171 classes. Published: 12.5 mIoU.
_base_ = [
    '../_base_/models/maskclip_vit-b16.py',
    '../_base_/datasets/coco-stuff171.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='coco-stuff171')
