# SED on CLIP's ConvNeXt-B, trained by LAION; images at 768 x 768, in one piece.
data_preprocessor = dict(
    type='vlm_dense.MixedSizeSegDataPreProcessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
    size=(768, 768),
)
clip = dict(arch='convnext_base_w_320', pretrained='laion_aesthetic_s13b_b82k')
model = dict(
    type='vlm_dense.SED',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='vlm_dense.CLIPTower', **clip),
    text_encoder=dict(type='vlm_dense.TextTower', **clip),
    text_prompt=dict(type='vlm_dense.TemplateVariantsPrompt', templates='imagenet80'),
    decode_head=dict(type='vlm_dense.SEDHead'),
    clip_resolution=768,
    train_cfg=dict(),
    test_cfg=dict(mode='whole', keep_logits=False),
)
