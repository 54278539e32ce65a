# MaskCLIP, CLIP RN50, Cityscapes, 19 classes.
_base_ = [
    '../_base_/models/maskclip_rn50.py',
    '../_base_/datasets/cityscapes.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='cityscapes19')
