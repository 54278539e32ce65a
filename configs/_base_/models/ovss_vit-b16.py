# What MaskCLIP's successors have in common: CLIP's ViT-B/16 as it was trained, OpenAI's 80 sentences, windows of
# 224 px, probabilities of all names. The method's config names its dense_attention.
data_preprocessor = dict(
    type='vlm_dense.MixedSizeSegDataPreProcessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
)
model = dict(
    type='vlm_dense.MaskCLIP',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='vlm_dense.MaskCLIPViT',
        arch='ViT-B-16',
        pretrained='openai',
        act=None,
        ln_eps=None,
        pos_mode='bicubic_scaled',
        remainder='drop',
    ),
    text_encoder=dict(type='vlm_dense.TextTower', arch='ViT-B-16', pretrained='openai'),
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet80'),
    postprocess=[
        dict(type='vlm_dense.OriginalSize', at_once=True),
        dict(type='vlm_dense.Probabilities', scale=40.0),
        dict(type='vlm_dense.Aliases'),
    ],
    test_cfg=dict(mode='slide', crop_size=(224, 224), stride=(112, 112), keep_logits=False),
)
test_cfg = dict(type='TestLoop')
