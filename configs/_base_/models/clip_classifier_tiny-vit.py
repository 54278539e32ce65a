# The bundled tiny-vit as a classifier; both towers stay frozen. A config adds the prompts.
_base_ = './clip_classifier_tiny-rn.py'

model = dict(
    backbone=dict(_delete_=True, type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled', head=True),
    text_encoder=dict(arch='tiny-vit'),
)
