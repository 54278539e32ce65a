# CAT-Seg on the bundled tiny-vit and images in one piece.
_base_ = './cat_seg_vit-b16.py'

clip = dict(arch='tiny-vit', pretrained='bundled')
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    backbone=dict(out_indices=[0, 1], **clip),
    text_encoder=clip,
    text_prompt=dict(templates=['a photo of a {}.']),
    decode_head=dict(
        hidden_dim=32,
        window_size=6,
        text_guidance_dim=32,
        image_guidance_dim=32,
        decoder_dims=[32, 16],
        decoder_guidance_dims=[16, 8],
        upsampled_dims=[32, 16],
        pooling=1,
    ),
    clip_resolution=96,
    test_cfg=dict(_delete_=True, mode='whole', keep_logits=False),
)
