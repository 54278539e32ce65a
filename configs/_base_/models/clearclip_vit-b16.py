# ClearCLIP on CLIP's ViT-B/16.
_base_ = './ovss_vit-b16.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.ClearCLIPAttention')),
    decision=dict(scale=50.0),
    test_cfg=dict(crop_size=(448, 448), stride=(224, 224), window_multiple=16, window_batch_size=2),
)
