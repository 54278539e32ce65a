# CLIPSelf on the bundled tiny-vit.
data_preprocessor = dict(
    type='vlm_dense.RegionDataPreprocessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
)
model = dict(
    type='vlm_dense.CLIPSelf',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled', pos_mode='bicubic'),
    text_encoder=dict(type='vlm_dense.TextTower', arch='tiny-vit', pretrained='bundled'),
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.']),
)
