# MaskCLIP on CLIP's ViT-B/16 with the settings of the published numbers: GELU and epsilon 1e-6 instead of CLIP's
# QuickGELU and 1e-5 (act=None, ln_eps=None in the backbone give CLIP's own), ImageNet's mean and deviation instead of
# CLIP's (122.771, 116.746, 104.094 and 68.501, 66.632, 70.323), no refinement but the first name of each
# class (vlm_dense.PromptDenoising and vlm_dense.KeySmoothing behind it are those of the paper).
data_preprocessor = dict(
    type='vlm_dense.MixedSizeSegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
)
model = dict(
    type='vlm_dense.MaskCLIP',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='vlm_dense.MaskCLIPViT', arch='ViT-B-16', pretrained='openai'),
    text_encoder=dict(type='vlm_dense.TextTower', arch='ViT-B-16', pretrained='openai'),
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    # the label map only, whatever the number of classes
    test_cfg=dict(mode='whole', keep_logits=False),
)
test_cfg = dict(type='TestLoop')
