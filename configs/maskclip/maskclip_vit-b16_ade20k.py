# MaskCLIP, CLIP ViT-B/16, ADE20K, 150 classes.
_base_ = [
    '../_base_/models/maskclip_vit-b16.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='ade150')
