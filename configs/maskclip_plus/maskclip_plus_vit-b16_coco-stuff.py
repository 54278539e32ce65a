# MaskCLIP+ without any label, COCO-Stuff, 171 classes; teacher: MaskCLIP on CLIP's ViT-B/16. Published: 18.0 mIoU.
_base_ = './maskclip_plus_rn50_coco-stuff.py'

model = dict(
    teacher=dict(backbone=dict(type='vlm_dense.MaskCLIPViT', arch='ViT-B-16'), text_encoder=dict(arch='ViT-B-16'))
)
