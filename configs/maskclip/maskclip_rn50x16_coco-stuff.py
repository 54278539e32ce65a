# MaskCLIP, CLIP RN50x16, COCO-Stuff, 171 classes. Published: 13.6 mIoU.
_base_ = [
    '../_base_/models/maskclip_rn50x16.py',
    '../_base_/datasets/coco-stuff171.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='coco-stuff171')
