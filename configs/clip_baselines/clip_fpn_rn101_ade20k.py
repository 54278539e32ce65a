# CLIP RN101 with a semantic FPN and no text, ADE20K. Published: 42.7 mIoU, 44.3 with multi-scale and flip.
_base_ = './clip_fpn_rn50_ade20k.py'

model = dict(backbone=dict(arch='RN101'))
