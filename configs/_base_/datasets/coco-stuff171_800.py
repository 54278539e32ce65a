# COCO-Stuff 171: training on whole images with a short side of 800 px, as MAFT+ does; tests likewise.
_base_ = './coco-stuff171_crop-384.py'

scale = (1333, 800)
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=171),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=scale, keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=171),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(batch_size=1, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
