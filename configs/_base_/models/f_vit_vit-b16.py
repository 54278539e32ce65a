# F-ViT on OpenAI's ViT-B/16, of which no detector was released.
_base_ = './f_vit_eva02-b16.py'

clip = dict(arch='ViT-B-16', pretrained='openai')
model = dict(
    backbone=dict(
        _delete_=True, type='vlm_dense.CLIPViT', head=True, pos_mode='bicubic', out_indices=[3, 5, 7, 11], **clip
    ),
    text_encoder=clip,
)
