# COCO-Stuff 171: training with jitter of the scale in crops of 1024 px; the rest as in coco-stuff171_crop-384.py.
_base_ = './coco-stuff171_crop-384.py'

crop_size = (1024, 1024)
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=171),
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomResize', scale=crop_size, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='Pad', size=crop_size, pad_val=dict(img=128, seg=255)),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(896, 896), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=171),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
