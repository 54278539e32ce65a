# SED on the bundled tiny-rn with its statistics as they are, and small images.
_base_ = './sed_convnext-b.py'

clip = dict(arch='tiny-rn', pretrained='bundled')
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    backbone=dict(_delete_=True, type='vlm_dense.CLIPResNet', attnpool=True, norm_eval=True, **clip),
    text_encoder=clip,
    text_prompt=dict(templates=['a photo of a {}.', 'a drawing of a {}.']),
    decode_head=dict(
        hidden_dim=32,
        decoder_dims=[32, 16, 16],
        image_dims=[16, 8, 8],
        cost_dims=[8, 4, 4],
        kernel_size=[5, 5, 5],
        pooling=1,
    ),
    clip_resolution=128,
)
