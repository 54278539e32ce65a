# DenseCLIP with RetinaNet, CLIP RN50, COCO. Published: 37.8 box AP.
_base_ = [
    '../_base_/models/denseclip_retinanet_rn50.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/denseclip_det_1x.py',
    '../_base_/detection_runtime.py',
]
