# MaskCLIP+ with MaskCLIP on CLIP's ViT-B/16 as teacher.
_base_ = './maskclip_plus_rn50.py'

model = dict(
    teacher=dict(backbone=dict(type='vlm_dense.MaskCLIPViT', arch='ViT-B-16'), text_encoder=dict(arch='ViT-B-16'))
)
