# SC-CLIP, CLIP ViT-L/14, PASCAL Context, 59 classes. Published: 40.6 mIoU.
_base_ = './sc_clip_vit-b16_context59.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
