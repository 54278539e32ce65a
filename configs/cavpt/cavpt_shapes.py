# DPT with CAVPT, 16 shots, on drawn scenes by night, 60 epochs; general knowledge guides the first half of them.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/cavpt_100e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.CAVPTPrompt', num_contexts=16, num_tokens=4, likely=4),
    loss=dict(type='vlm_dense.CAVPTLoss', alpha=0.3, guided_epochs=30),
)
max_epochs = 60
param_scheduler = [
    dict(type='vlm_dense.WarmUpCosineLR', T_max=max_epochs, warmup=1, warmup_lr=1e-5, by_epoch=True, end=max_epochs)
]
train_cfg = dict(max_epochs=max_epochs)
