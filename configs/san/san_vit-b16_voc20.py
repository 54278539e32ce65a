# SAN on CLIP ViT-B/16, trained on COCO-Stuff, tested on PASCAL VOC, 20 classes. Published: 93.9 mIoU.
_base_ = [
    '../_base_/models/san_vit-b16.py',
    '../_base_/datasets/voc20.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=20),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
