# SAN on CLIP ViT-L/14 at 336 px, which sees images at 0.7 of their size.
_base_ = './san_vit-b16.py'

clip = dict(arch='ViT-L-14-336-quickgelu', pretrained='openai')
model = dict(
    backbone=dict(dense_attention=dict(num_blocks=6, hidden_states=[-1, 5, 11, 17]), **clip),
    text_encoder=clip,
    clip_resolution=0.7,
)
