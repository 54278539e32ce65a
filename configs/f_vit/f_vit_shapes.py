# F-ViT on drawn scenes with the bundled tiny-vit; crescents and hearts are neither shown nor named in training.
#   python tools/train.py configs/f_vit/f_vit_shapes.py
# Each validation prints AP50 of the 6 base classes, of the 2 novel ones, and of all 8 (bbox_mAP_50).
_base_ = [
    '../_base_/models/f_vit_tiny-vit.py',
    '../_base_/datasets/shapes_ov-detection.py',
    '../_base_/schedules/tiny_det.py',
    '../_base_/detection_runtime_iters.py',
]

max_iters = 200
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=30),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=30, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
custom_hooks = [*_base_.custom_hooks, dict(type='vlm_dense.ClassNamesHook')]
