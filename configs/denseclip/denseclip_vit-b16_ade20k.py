# DenseCLIP, CLIP ViT-B/16, ADE20K. Published: 50.6 mIoU, 51.3 with multi-scale and flip.
_base_ = [
    '../_base_/models/denseclip_vit-b16.py',
    '../_base_/datasets/ade20k_640.py',
    '../_base_/schedules/denseclip_80k.py',
    '../_base_/default_runtime.py',
]
