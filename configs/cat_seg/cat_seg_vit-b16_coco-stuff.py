# CAT-Seg on CLIP ViT-B/16, trained on COCO-Stuff, 171 classes.
_base_ = [
    '../_base_/models/cat_seg_vit-b16.py',
    '../_base_/datasets/coco-stuff171_crop-384.py',
    '../_base_/schedules/cat_seg_80k.py',
    '../_base_/default_runtime.py',
]
