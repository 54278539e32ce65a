# COCO-Stuff 171: training in crops of 768 px, as SED does; the rest as in coco-stuff171_crop-384.py.
_base_ = './coco-stuff171_crop-384.py'

crop_size = (768, 768)
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=171),
    dict(type='Resize', scale=(2666, 768), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=crop_size, pad_val=dict(img=128, seg=255)),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
