# Mask-Adapter on the MAFT+ of CLIP's ConvNeXt-B.
_base_ = './mask_adapter_maft-plus_convnext-l.py'

clip = dict(arch='convnext_base_w_320', pretrained='laion_aesthetic_s13b_b82k_augreg')
model = dict(backbone=clip, text_encoder=clip, mask_threshold=0.45, alpha=0.7)
