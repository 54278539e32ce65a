# CLIP's ViT-B/32 as a classifier; both towers stay frozen. A config adds the prompts.
_base_ = './clip_classifier_tiny-vit.py'

model = dict(
    backbone=dict(arch='ViT-B-32', pretrained='openai'),
    text_encoder=dict(arch='ViT-B-32', pretrained='openai'),
)
