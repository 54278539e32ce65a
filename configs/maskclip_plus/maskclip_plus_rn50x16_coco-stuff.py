# MaskCLIP+ without any label, COCO-Stuff, 171 classes; teacher: MaskCLIP on CLIP's RN50x16. Published: 17.3 mIoU.
_base_ = './maskclip_plus_rn50_coco-stuff.py'

model = dict(teacher=dict(backbone=dict(arch='RN50x16'), text_encoder=dict(arch='RN50x16')))
