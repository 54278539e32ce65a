# RetinaNet on CLIP's RN50 without text, COCO. Published: 36.9 box AP.
_base_ = [
    '../_base_/models/clip_retinanet_rn50.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/denseclip_det_1x.py',
    '../_base_/detection_runtime.py',
]
