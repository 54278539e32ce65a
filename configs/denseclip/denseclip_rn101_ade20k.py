# DenseCLIP, CLIP RN101, ADE20K. Published: 45.1 mIoU, 46.5 with multi-scale and flip.
_base_ = './denseclip_ade20k.py'

model = dict(backbone=dict(arch='RN101'), text_encoder=dict(arch='RN101'))
