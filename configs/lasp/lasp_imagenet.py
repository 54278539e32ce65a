# LASP on ImageNet, 16 shots, ViT-B/16, as released: 25 epochs, batch 32.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/lasp_25e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.LASPPrompt', words='a photo of a', templates='lasp', weight=5.0),
    trainable=['ln_[12]'],
)
