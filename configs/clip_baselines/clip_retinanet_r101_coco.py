# RetinaNet on CLIP's RN101 without text, COCO. Published: 40.5 box AP.
_base_ = './clip_retinanet_r50_coco.py'

model = dict(backbone=dict(arch='RN101'))
