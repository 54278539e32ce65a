# DenseCLIP with RetinaNet, CLIP RN101, COCO. Published: 41.1 box AP.
_base_ = './denseclip_retinanet_r50_coco.py'

model = dict(backbone=dict(arch='RN101'), text_encoder=dict(arch='RN101'))
