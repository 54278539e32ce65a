# VPT-deep in the frozen tower of an ordinary segmentor, without text, on drawn scenes.
_base_ = [
    '../_base_/models/clip_fpn_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='vlm_dense.CLIPViT',
        arch='tiny-vit',
        pretrained='bundled',
        pyramid=True,
        frozen=True,
        image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=8, depth=4),
    ),
    neck=dict(in_channels=[128] * 4),
)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys={'backbone': dict(lr_mult=1.0)}))  # what it trains is new
default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
