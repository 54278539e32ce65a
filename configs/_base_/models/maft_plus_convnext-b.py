# MAFT+ on CLIP's ConvNeXt-B, trained by LAION.
_base_ = './maft_plus_convnext-l.py'

clip = dict(arch='convnext_base_w_320', pretrained='laion_aesthetic_s13b_b82k_augreg')
model = dict(backbone=clip, text_encoder=clip)
