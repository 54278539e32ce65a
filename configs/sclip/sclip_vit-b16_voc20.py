# SCLIP, CLIP ViT-B/16, PASCAL VOC, 20 classes. Published: 81.54 mIoU.
_base_ = [
    '../_base_/models/sclip_vit-b16.py',
    '../_base_/datasets/voc20_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc20',
)
