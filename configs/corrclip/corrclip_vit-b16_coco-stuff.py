# CorrCLIP, MetaCLIP ViT-B/16, COCO-Stuff, 171 classes; regions of SAM 2. Published: 31.6 mIoU.
_base_ = [
    '../_base_/models/corrclip_vit-b16.py',
    '../_base_/datasets/coco-stuff171_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-stuff171',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
