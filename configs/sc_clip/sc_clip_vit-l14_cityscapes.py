# SC-CLIP, CLIP ViT-L/14, Cityscapes, 19 classes. Published: 41.3 mIoU.
_base_ = './sc_clip_vit-b16_cityscapes.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
