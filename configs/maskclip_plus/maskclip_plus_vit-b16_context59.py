# MaskCLIP+ without any label, PASCAL Context, 59 classes; teacher: MaskCLIP on CLIP's ViT-B/16. Published: 31.1 mIoU.
_base_ = './maskclip_plus_rn50_context59.py'

model = dict(
    teacher=dict(backbone=dict(type='vlm_dense.MaskCLIPViT', arch='ViT-B-16'), text_encoder=dict(arch='ViT-B-16'))
)
