# CAT-Seg on CLIP ViT-L/14 at 336 px.
_base_ = './cat_seg_vit-b16.py'

clip = dict(arch='ViT-L-14-336-quickgelu', pretrained='openai')
model = dict(backbone=dict(out_indices=[7, 15], **clip), text_encoder=clip, clip_resolution=336)
