# DenseCLIP with Mask R-CNN, CLIP RN50, COCO. Published: 40.2 box AP, 37.6 mask AP.
_base_ = [
    '../_base_/models/denseclip_mask-rcnn_rn50.py',
    '../_base_/datasets/coco_instance.py',
    '../_base_/schedules/denseclip_det_1x.py',
    '../_base_/detection_runtime.py',
]

optim_wrapper = dict(optimizer=dict(lr=2e-4))
