# CorrCLIP, MetaCLIP ViT-B/16, Cityscapes, 19 classes; regions of SAM 2. Published: 49.4 mIoU.
_base_ = [
    '../_base_/models/corrclip_vit-b16.py',
    '../_base_/datasets/cityscapes_448.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='cityscapes19',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    test_cfg=dict(crop_size=(224, 224)),
)
