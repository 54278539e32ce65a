# ClearCLIP, CLIP ViT-B/16, PASCAL VOC, 20 classes. Published: 80.9 mIoU.
_base_ = [
    '../_base_/models/clearclip_vit-b16.py',
    '../_base_/datasets/voc20_448.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc20',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
