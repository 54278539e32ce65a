# VT-CLIP, 16 shots, on drawn scenes by night, trained on features instead of images.
_base_ = [
    '../_base_/models/clip_classifier_tiny-rn.py',
    '../_base_/datasets/shapes_few-shot_features.py',
    '../_base_/schedules/vt_clip_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    head=dict(type='vlm_dense.VTCLIP', num_layers=1, num_heads=8, zero_init=True),
)
default_hooks = dict(prepare=dict(type='vlm_dense.PrepareHook'), checkpoint=dict(interval=50))
