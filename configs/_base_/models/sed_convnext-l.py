# SED on CLIP's ConvNeXt-L, trained by LAION.
_base_ = './sed_convnext-b.py'

clip = dict(arch='convnext_large_d_320', pretrained='laion2b_s29b_b131k_ft_soup')
model = dict(backbone=dict(drop_path_rate=0.1, **clip), text_encoder=clip)
