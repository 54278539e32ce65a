# SAN on CLIP ViT-B/16, which sees images at half of their size; tested on whole images.
data_preprocessor = dict(
    type='vlm_dense.MixedSizeSegDataPreProcessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(640, 640),
)
clip = dict(arch='ViT-B-16-quickgelu', pretrained='openai')
model = dict(
    type='vlm_dense.SAN',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='vlm_dense.CLIPViT',
        head=True,
        pos_mode='bicubic',
        remainder='drop',
        dense_attention=dict(type='vlm_dense.SideAdapterAttention', num_blocks=3, hidden_states=[-1, 2, 5, 8]),
        **clip,
    ),
    text_encoder=dict(type='vlm_dense.TextTower', **clip),
    decode_head=dict(type='vlm_dense.SideAdapterHead'),
    clip_resolution=0.5,
    train_cfg=dict(),
    test_cfg=dict(mode='whole', keep_logits=False),
)
