# DenseCLIP on the bundled tiny-vit, its blocks frozen with low-rank updates, on drawn scenes.
_base_ = [
    '../_base_/models/denseclip_tiny-vit.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(frozen_stages=4),
    image_prompt=dict(type='vlm_dense.LoRA', patterns=[r'attn\.[qkv]_proj$', r'mlp'], rank=4, dropout=0.0),
)
default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
