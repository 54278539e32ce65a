# DeCLIP on EVA-02-CLIP's ViT-B/16 with DINOv2's ViT-B/14 as proxy.
_base_ = './clipself_eva02-b16.py'

model = dict(
    type='vlm_dense.DeCLIP',
    backbone=dict(dense_attention=dict(type='vlm_dense.DeCLIPAttention', mode='qq', scaled=False)),
    proxy=dict(
        type='vlm_dense.ProxyViT', model='vit_base_patch14_reg4_dinov2.lvd142m', pretrained=True, positions='timm'
    ),
    unit_map=False,  # as the release does in towers of EVA
)
