# An ordinary segmentor on drawn scenes that pixel-text matching supervises beside its own head, as DenseCLIP's does.
_base_ = [
    '../_base_/models/clip_fpn_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

model = dict(
    auxiliary_head=dict(
        type='vlm_dense.PixelTextHead',
        in_channels=64,
        in_index=3,
        class_names=['background', 'circle', 'square', 'triangle', 'star', 'cross', 'ring', 'crescent', 'heart'],
        text_encoder=dict(type='vlm_dense.TextTower', arch='tiny-rn', pretrained='bundled'),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
        loss_decode=dict(type='CrossEntropyLoss', loss_weight=0.4),
    )
)
default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
