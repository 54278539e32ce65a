# FC-CLIP on CLIP's RN50.
_base_ = './fc_clip_convnext-l.py'

clip = dict(arch='RN50-quickgelu', pretrained='openai')
model = dict(backbone=clip, text_encoder=clip, ensemble_on_valid_mask=True)
