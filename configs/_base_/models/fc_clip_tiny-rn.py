# FC-CLIP on the bundled tiny-rn and small images, with a small Mask2Former.
_base_ = './fc_clip_convnext-l.py'

clip = dict(arch='tiny-rn', pretrained='bundled')
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    backbone=clip,
    text_encoder=clip,
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.', 'a drawing of a {}.']),
    decode_head=dict(
        width=64,
        heads=4,
        num_queries=16,
        encoder_layers=1,
        encoder_ffn=128,
        decoder_layers=3,
        decoder_ffn=128,
        num_points=576,
    ),
    ensemble_on_valid_mask=True,
)
