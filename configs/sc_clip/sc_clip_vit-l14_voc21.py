# SC-CLIP, CLIP ViT-L/14, PASCAL VOC, 20 classes and the background. Published: 65.0 mIoU.
_base_ = './sc_clip_vit-b16_voc21.py'

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
)
