# ProxyCLIP, CLIP ViT-B/16, PASCAL VOC, 20 classes. Published: 80.3 mIoU.
_base_ = [
    '../_base_/models/proxyclip_vit-b16.py',
    '../_base_/datasets/voc20_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc20',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
