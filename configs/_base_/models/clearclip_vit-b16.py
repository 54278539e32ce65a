# ClearCLIP on CLIP's ViT-B/16.
_base_ = './ovss_vit-b16.py'

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.ClearCLIPAttention')),
    postprocess=[
        dict(type='vlm_dense.OriginalSize', at_once=True),
        dict(type='vlm_dense.Probabilities', scale=50.0),
        dict(type='vlm_dense.Aliases'),
    ],
    test_cfg=dict(crop_size=(448, 448), stride=(224, 224), window_multiple=16, window_batch_size=2),
)
