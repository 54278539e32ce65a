# SAN on CLIP ViT-L/14 at 336 px, trained on COCO-Stuff, tested on ADE20K, 150 classes. Published: 31.9 mIoU.
_base_ = [
    '../_base_/models/san_vit-l14.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='vlm_dense.CheckSeg', num_classes=150),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
train_dataloader = train_cfg = None
val_dataloader = val_evaluator = val_cfg = None
