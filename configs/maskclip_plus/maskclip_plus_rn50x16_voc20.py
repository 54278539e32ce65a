# MaskCLIP+ without any label, PASCAL VOC, 20 classes; teacher: MaskCLIP on CLIP's RN50x16. Published: 67.5 mIoU.
_base_ = './maskclip_plus_rn50_voc20.py'

model = dict(teacher=dict(backbone=dict(arch='RN50x16'), text_encoder=dict(arch='RN50x16')))
