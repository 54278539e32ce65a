# SAN on CLIP ViT-B/16, trained on COCO-Stuff, 171 classes. Published: 41.9 mIoU.
_base_ = [
    '../_base_/models/san_vit-b16.py',
    '../_base_/datasets/coco-stuff171_crop-640.py',
    '../_base_/schedules/san_60k.py',
    '../_base_/default_runtime.py',
]
