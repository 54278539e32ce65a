# CAT-Seg on CLIP ViT-L/14 at 336 px, trained on COCO-Stuff, 171 classes.
_base_ = [
    '../_base_/models/cat_seg_vit-l14.py',
    '../_base_/datasets/coco-stuff171_crop-384.py',
    '../_base_/schedules/cat_seg_80k.py',
    '../_base_/default_runtime.py',
]
