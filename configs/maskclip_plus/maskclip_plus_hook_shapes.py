# An ordinary segmentor on drawn scenes, without any label: a hook gives it the labels of a frozen MaskCLIP.
_base_ = [
    '../_base_/models/clip_fpn_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='vlm_dense.DrawScene'),
            dict(type='vlm_dense.SuppressLabels'),  # takes the masks away
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    )
)
custom_hooks = [*_base_.custom_hooks, dict(type='vlm_dense.PseudoLabelHook', teacher='maskclip_tiny-vit_shapes')]
max_iters = 400
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=False, begin=0, end=50),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=50, end=max_iters),
]
train_cfg = dict(max_iters=max_iters, val_interval=100)
default_hooks = dict(logger=dict(interval=50), checkpoint=dict(interval=100))
