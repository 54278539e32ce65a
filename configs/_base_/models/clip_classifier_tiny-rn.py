# The bundled tiny-rn as a classifier; both towers stay frozen. A config adds the text prompt.
model = dict(
    type='vlm_dense.CLIPClassifier',
    data_preprocessor=dict(
        type='vlm_dense.ClsDataPreprocessor',
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.32316305],
        bgr_to_rgb=True,
    ),
    backbone=dict(type='vlm_dense.CLIPResNet', arch='tiny-rn', pretrained='bundled', attnpool=True),
    text_encoder=dict(type='vlm_dense.TextTower', arch='tiny-rn', pretrained='bundled'),
)
