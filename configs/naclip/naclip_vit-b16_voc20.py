# NACLIP, CLIP ViT-B/16, PASCAL VOC, 20 classes. Published: 83.03 mIoU.
_base_ = [
    '../_base_/models/naclip_vit-b16.py',
    '../_base_/datasets/voc20_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc20',
    test_cfg=dict(_delete_=True, mode='whole', keep_logits=False),
)
