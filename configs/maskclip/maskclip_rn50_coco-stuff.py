# MaskCLIP, CLIP RN50, COCO-Stuff, 171 classes. Published: 10.2 mIoU.
_base_ = [
    '../_base_/models/maskclip_rn50.py',
    '../_base_/datasets/coco-stuff171.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='coco-stuff171')
