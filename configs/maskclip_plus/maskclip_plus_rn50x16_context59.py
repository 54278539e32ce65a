# MaskCLIP+ without any label, PASCAL Context, 59 classes; teacher: MaskCLIP on CLIP's RN50x16. Published: 25.2 mIoU.
_base_ = './maskclip_plus_rn50_context59.py'

model = dict(teacher=dict(backbone=dict(arch='RN50x16'), text_encoder=dict(arch='RN50x16')))
