# LPOSS on LAION's ViT-B/16 with DINO's ViT-B/16 beside it; pixels=dict(tau=0.01, size=13) makes it LPOSS+.
_base_ = './ovss_vit-b16.py'

model = dict(
    type='vlm_dense.LPOSS',
    backbone=dict(pretrained='laion2b_s34b_b88k', pos_mode='bicubic', remainder='pad'),
    text_encoder=dict(pretrained='laion2b_s34b_b88k'),
    proxy=dict(type='vlm_dense.ProxyViT', model='vit_base_patch16_224.dino', pretrained=True, feature='value'),
    postprocess=[],
)
