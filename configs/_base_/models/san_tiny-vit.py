# SAN on the bundled tiny-vit and small images, with a small side network.
_base_ = './san_vit-b16.py'

clip = dict(arch='tiny-vit', pretrained='bundled')
model = dict(
    data_preprocessor=dict(size=(96, 96)),
    backbone=dict(dense_attention=dict(num_blocks=2, hidden_states=[-1, 0, 1]), **clip),
    text_encoder=clip,
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.', 'a drawing of a {}.']),
    decode_head=dict(
        fusion=[0, 1, 2],
        width=64,
        depth=4,
        side_heads=4,
        patch_size=4,
        image_size=96,
        num_queries=16,
        supervised=[3, 4],
        embed_channels=64,
        mlp_channels=64,
        num_points=576,
    ),
    clip_resolution=1.0,
)
