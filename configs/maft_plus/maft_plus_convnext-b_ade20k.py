# MAFT+ on CLIP's ConvNeXt-B, trained on COCO-Stuff, tested on ADE20K, 150 classes. Published: 34.6 mIoU.
_base_ = [
    '../_base_/models/maft_plus_convnext-b.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='vlm_dense.CheckSeg', num_classes=150),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
train_dataloader = train_cfg = None
val_dataloader = val_evaluator = val_cfg = None
