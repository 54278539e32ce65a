# CorrCLIP on MetaCLIP's ViT-B/16 and DINO's ViT-B/8. Regions are read from data/regions, see docs/dense.md.
_base_ = './ovss_vit-b16.py'

model = dict(
    type='vlm_dense.CorrCLIP',
    regions=dict(type='vlm_dense.RegionFiles', folder='data/regions'),
    backbone=dict(
        arch='ViT-B-16-quickgelu',
        pretrained='metaclip_fullcc',
        pos_mode='dino',
        dense_attention=dict(
            type='vlm_dense.CorrCLIPAttention',
            proxy=dict(
                type='vlm_dense.ProxyViT', model='vit_base_patch8_224.dino', pretrained=True, feature='query_key'
            ),
        ),
    ),
    text_encoder=dict(arch='ViT-B-16-quickgelu', pretrained='metaclip_fullcc'),
    postprocess=[
        dict(type='vlm_dense.OriginalSize'),
        dict(type='vlm_dense.Probabilities', scale=40.0),
        dict(type='vlm_dense.Aliases'),
    ],
    test_cfg=dict(crop_size=(336, 336), stride=(112, 112), window_multiple=56, window_batch_size=2),
)
