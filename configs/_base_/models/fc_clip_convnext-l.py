# FC-CLIP on CLIP's ConvNeXt-L, trained by LAION; images in one piece.
data_preprocessor = dict(
    type='vlm_dense.MixedSizeSegDataPreProcessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
)
clip = dict(arch='convnext_large_d_320', pretrained='laion2b_s29b_b131k_ft_soup')
model = dict(
    type='vlm_dense.FCCLIP',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='vlm_dense.CLIPTower', **clip),
    text_encoder=dict(type='vlm_dense.TextTower', **clip),
    decode_head=dict(type='vlm_dense.NamedMask2FormerHead', num_queries=250),
    alpha=0.4,
    beta=0.8,
    train_cfg=dict(),
    test_cfg=dict(mode='whole', keep_logits=False),
)
