# Mask R-CNN on CLIP's RN101 without text, COCO. Published: 42.2 box AP, 38.9 mask AP.
_base_ = './clip_mask-rcnn_r50_coco.py'

model = dict(backbone=dict(arch='RN101'))
