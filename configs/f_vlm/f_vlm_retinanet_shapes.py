# f_vlm_shapes.py as a RetinaNet, one stage: each anchor has an embedding, which is compared with class names
#   python tools/train.py configs/f_vlm/f_vlm_retinanet_shapes.py
_base_ = [
    '../_base_/models/f_vlm_retinanet_tiny-rn.py',
    '../_base_/datasets/shapes_ov-detection.py',
    '../_base_/schedules/tiny_det.py',
    '../_base_/detection_runtime_iters.py',
]

max_iters = 400
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=50, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
default_hooks = dict(checkpoint=dict(interval=max_iters))
custom_hooks = [*_base_.custom_hooks, dict(type='vlm_dense.ClassNamesHook')]
