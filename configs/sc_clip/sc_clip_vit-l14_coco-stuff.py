# SC-CLIP, CLIP ViT-L/14, COCO-Stuff, 171 classes. Published: 26.9 mIoU.
_base_ = './sc_clip_vit-b16_coco-stuff.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
