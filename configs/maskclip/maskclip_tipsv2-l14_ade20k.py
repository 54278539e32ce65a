# MaskCLIP's value path on TIPSv2 L/14 as in its release, ADE20K, 150 classes. Published: 24.7 mIoU.
_base_ = [
    '../_base_/models/maskclip_tipsv2-l14.py',
    '../_base_/datasets/ade20k_448.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='ade150')
