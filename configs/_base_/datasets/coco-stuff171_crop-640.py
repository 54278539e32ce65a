# COCO-Stuff 171: training in crops of 640 px of images of random size, as SAN does, 8 processes with 4 images each; the
# rest as in coco-stuff171_crop-384.py.
_base_ = './coco-stuff171_crop-384.py'

crop_size = (640, 640)
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=171),
    dict(
        type='RandomChoiceResize',
        scales=list(range(320, 961, 64)),
        resize_type='ResizeShortestEdge',
        max_size=2560,
    ),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='PhotoMetricDistortion'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='Pad', size=crop_size, pad_val=dict(img=128, seg=255)),
    dict(type='PackSegInputs'),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
