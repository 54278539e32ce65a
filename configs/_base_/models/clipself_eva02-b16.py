# CLIPSelf on EVA-02-CLIP's ViT-B/16, which takes positions bicubically and images in squares.
data_preprocessor = dict(type='vlm_dense.RegionDataPreprocessor', mean='tag', std='tag', bgr_to_rgb=True)
model = dict(
    type='vlm_dense.CLIPSelf',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='vlm_dense.CLIPTimmViT', arch='EVA02-B-16', pretrained='merged2b_s8b_b131k', pos_mode='bicubic'),
    text_encoder=dict(type='vlm_dense.TextTower', arch='EVA02-B-16', pretrained='merged2b_s8b_b131k'),
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet80'),
)
