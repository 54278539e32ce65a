# DPT with CAVPT, 16 shots, on ImageNet, ViT-B/32; general knowledge guides the first half of the epochs.
_base_ = [
    '../_base_/models/clip_classifier_vit-b32.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/cavpt_60e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.CAVPTPrompt', num_contexts=16, num_tokens=10, likely=10),
    loss=dict(type='vlm_dense.CAVPTLoss', alpha=0.3, guided_epochs=30),
)
