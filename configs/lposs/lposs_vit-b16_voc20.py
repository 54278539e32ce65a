# LPOSS, CLIP ViT-B/16, PASCAL VOC, 20 classes. Published: 78.8 mIoU.
_base_ = [
    '../_base_/models/lposs_vit-b16.py',
    '../_base_/datasets/voc20_448.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc20',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
