# MaskCLIP, CLIP ViT-B/16, Cityscapes, 19 classes.
_base_ = [
    '../_base_/models/maskclip_vit-b16.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='cityscapes19')
