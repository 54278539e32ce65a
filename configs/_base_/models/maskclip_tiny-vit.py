# MaskCLIP on the bundled tiny-vit, with the activation, epsilon, mean and deviation of its training.
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
        arch='tiny-vit',
        pretrained='bundled',
        act=None,
        ln_eps=None,
    ),
    text_encoder=dict(type='vlm_dense.TextTower', arch='tiny-vit', pretrained='bundled'),
    test_cfg=dict(mode='whole', keep_logits=False),
)
test_cfg = dict(type='TestLoop')
