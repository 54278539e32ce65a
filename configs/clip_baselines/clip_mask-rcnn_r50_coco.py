# Mask R-CNN on CLIP's RN50 without text, COCO. Published: 39.3 box AP, 36.8 mask AP.
_base_ = [
    '../_base_/models/clip_mask-rcnn_rn50.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/denseclip_det_1x.py',
    '../_base_/detection_runtime.py',
]

optim_wrapper = dict(optimizer=dict(lr=2e-4))
