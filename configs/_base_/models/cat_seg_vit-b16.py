# CAT-Seg on CLIP ViT-B/16, tested as the paper does: windows of 384 px of the image at 640 x 640, and the whole image.
data_preprocessor = dict(
    type='vlm_dense.MixedSizeSegDataPreProcessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(384, 384),
)
clip = dict(arch='ViT-B-16-quickgelu', pretrained='openai')
model = dict(
    type='vlm_dense.CATSeg',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='vlm_dense.CLIPViT',
        head=True,
        pos_mode='bicubic',
        out_indices=[3, 7],
        dense_attention=dict(type='vlm_dense.CATSegAttention'),
        **clip,
    ),
    text_encoder=dict(type='vlm_dense.TextTower', **clip),
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['A photo of a {} in the scene']),
    decode_head=dict(type='vlm_dense.CATSegHead'),
    clip_resolution=384,
    train_cfg=dict(),
    test_cfg=dict(
        mode='slide',
        crop_size=(384, 384),
        stride=(256, 256),
        resize=(640, 640),
        overview=True,
        keep_logits=False,
    ),
)
