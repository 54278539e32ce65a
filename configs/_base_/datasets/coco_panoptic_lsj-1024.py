# COCO panoptic, 80 things and 53 stuff classes; training with jitter of the scale in crops of 1024 px.
# Layout: DATA_ROOT/train2017, val2017, annotations/panoptic_{train,val}2017.json and folders of the same names.
data_root = 'data/coco'
image_size = (1024, 1024)
num_things = 80
# for model.data_preprocessor of a CLIP with RGB images
panoptic_preprocessor = dict(
    _delete_=True,
    type='mmdet.DetDataPreprocessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
    pad_size_divisor=32,
    pad_mask=True,
    mask_pad_value=0,
    pad_seg=True,
    seg_pad_value=255,
    batch_augments=[
        dict(
            type='mmdet.BatchFixedSizePad',
            size=image_size,
            img_pad_value=0,
            pad_mask=True,
            mask_pad_value=0,
            pad_seg=True,
            seg_pad_value=255,
        )
    ],
)
train_pipeline = [
    dict(type='vlm_dense.LoadImage', to_float32=True),
    dict(type='vlm_dense.LoadPanopticAnnotations', with_bbox=True, with_mask=True, with_seg=True),
    dict(type='mmdet.RandomFlip', prob=0.5),
    dict(
        type='mmdet.RandomResize',
        scale=image_size,
        ratio_range=(0.1, 2.0),
        resize_type='mmdet.Resize',
        keep_ratio=True,
    ),
    dict(
        type='mmdet.RandomCrop',
        crop_size=image_size,
        crop_type='absolute',
        recompute_bbox=True,
        allow_negative_crop=True,
    ),
    dict(type='mmdet.PackDetInputs'),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='mmdet.Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='vlm_dense.LoadPanopticAnnotations'),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    dataset=dict(
        type='vlm_dense.CocoPanopticDataset',
        data_root=data_root,
        ann_file='annotations/panoptic_train2017.json',
        data_prefix=dict(img='train2017/', seg='annotations/panoptic_train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='vlm_dense.CocoPanopticDataset',
        data_root=data_root,
        ann_file='annotations/panoptic_val2017.json',
        data_prefix=dict(img='val2017/', seg='annotations/panoptic_val2017/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='vlm_dense.CocoPanopticMetric',
    ann_file=f'{data_root}/annotations/panoptic_val2017.json',
    seg_prefix=f'{data_root}/annotations/panoptic_val2017/',
)
test_evaluator = val_evaluator
