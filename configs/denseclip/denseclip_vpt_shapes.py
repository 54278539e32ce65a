# DenseCLIP on the bundled tiny-vit, its blocks frozen with VPT-deep's tokens, on drawn scenes.
_base_ = [
    '../_base_/models/denseclip_tiny-vit.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(frozen_stages=4),
    image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=8, depth=4),
)
default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
