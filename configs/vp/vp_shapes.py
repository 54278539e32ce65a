# VP, a frame of 4 px, 16 shots, on drawn scenes by night.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/vp_1000e.py',
    '../_base_/classification_runtime.py',
]

max_iters, warmup = 50 * 4, 4
model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
    image_prompt=dict(type='vlm_dense.VPPrompt', kind='padding', prompt_size=4, image_size=64),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=1 / warmup, by_epoch=False, begin=0, end=warmup),
    dict(type='CosineAnnealingLR', T_max=max_iters - warmup, by_epoch=False, begin=warmup, end=max_iters),
]
train_cfg = dict(max_epochs=50, val_interval=10)
