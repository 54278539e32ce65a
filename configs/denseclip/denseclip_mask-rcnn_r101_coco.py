# DenseCLIP with Mask R-CNN, CLIP RN101, COCO. Published: 42.6 box AP, 39.6 mask AP.
_base_ = './denseclip_mask-rcnn_r50_coco.py'

model = dict(backbone=dict(arch='RN101'), text_encoder=dict(arch='RN101'))
