# SAN on CLIP ViT-L/14 at 336 px, trained on COCO-Stuff, 171 classes. Published: 45.6 mIoU.
_base_ = [
    '../_base_/models/san_vit-l14.py',
    '../_base_/datasets/coco-stuff171_crop-640.py',
    '../_base_/schedules/san_60k.py',
    '../_base_/default_runtime.py',
]
