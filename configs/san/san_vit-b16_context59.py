# SAN on CLIP ViT-B/16, trained on COCO-Stuff, tested on PASCAL Context, 59 classes. Published: 54.1 mIoU.
_base_ = [
    '../_base_/models/san_vit-b16.py',
    '../_base_/datasets/context59.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='vlm_dense.CheckSeg', num_classes=59),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
