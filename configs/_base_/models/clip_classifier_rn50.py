# CLIP's RN50 as a classifier; both towers stay frozen. A config adds the text prompt.
_base_ = './clip_classifier_tiny-rn.py'

model = dict(
    backbone=dict(arch='RN50', pretrained='openai'),
    text_encoder=dict(arch='RN50', pretrained='openai'),
)
