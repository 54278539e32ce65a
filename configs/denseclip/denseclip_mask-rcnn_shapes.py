# DenseCLIP with Mask R-CNN on drawn scenes with the bundled tiny-rn: minutes on two cores.
_base_ = [
    '../_base_/models/denseclip_mask-rcnn_tiny-rn.py',
    '../_base_/datasets/shapes_instance.py',
    '../_base_/schedules/tiny_det.py',
    '../_base_/detection_runtime_iters.py',
]
