# TIPSv2's zero-shot segmentation: the values of its ViT-L/14, nine sentences a name, windows of 448 px with a softmax
# of the plain cosines each. The three files are those of its release.
model = dict(
    type='vlm_dense.MaskCLIP',
    data_preprocessor=dict(
        type='vlm_dense.MixedSizeSegDataPreProcessor',
        mean=[0.0, 0.0, 0.0],
        std=[255.0, 255.0, 255.0],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
    ),
    backbone=dict(
        type='vlm_dense.CLIPTower',
        arch='TIPSv2-L-14',
        pretrained='data/tipsv2/tips_v2_oss_l14_vision.npz',
        frozen=True,
    ),
    text_encoder=dict(
        type='vlm_dense.TextTower',
        arch='TIPSv2-L-14',
        pretrained='data/tipsv2/tips_v2_oss_l14_text.npz',
        tokenizer=dict(type='vlm_dense.SentencePieceTokenizer', file='data/tipsv2/tokenizer.model'),
    ),
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='tips9'),
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    test_cfg=dict(mode='slide', crop_size=(448, 448), stride=(336, 336), window_softmax=True, keep_logits=False),
)
test_cfg = dict(type='TestLoop')
