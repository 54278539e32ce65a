# MaskCLIP+ with MaskCLIP on CLIP's RN50x16 as teacher.
_base_ = './maskclip_plus_rn50.py'

model = dict(teacher=dict(backbone=dict(arch='RN50x16'), text_encoder=dict(arch='RN50x16')))
