# CorrCLIP, MetaCLIP ViT-B/16, PASCAL VOC, 20 classes; regions of SAM 2. Published: 88.8 mIoU.
_base_ = [
    '../_base_/models/corrclip_vit-b16.py',
    '../_base_/datasets/voc20_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc20',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
