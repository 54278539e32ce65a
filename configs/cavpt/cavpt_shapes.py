# DPT with CAVPT, 16 shots, on drawn scenes by night; general knowledge guides the first half of the epochs.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/cavpt_60e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.CAVPTPrompt', num_contexts=16, num_tokens=4, likely=4),
    loss=dict(type='vlm_dense.CAVPTLoss', alpha=0.3, guided_epochs=30),
)
