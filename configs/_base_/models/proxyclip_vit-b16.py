# ProxyCLIP on CLIP's ViT-B/16.
_base_ = './ovss_vit-b16.py'

model = dict(
    backbone=dict(
        pos_mode='dino',  # as DINO's: only a square window of the trained size keeps the stored positions
        dense_attention=dict(
            type='vlm_dense.ProxyCLIPAttention',
            proxy=dict(type='vlm_dense.ProxyViT', model='vit_base_patch8_224.dino', pretrained=True),
        ),
    ),
    test_cfg=dict(crop_size=(336, 336), window_multiple=56, window_batch_size=2),
)
