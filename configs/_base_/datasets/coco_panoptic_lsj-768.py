# COCO panoptic with jitter of the scale in crops of 768 px; the rest as in coco_panoptic_lsj-1024.py.
_base_ = './coco_panoptic_lsj-1024.py'

image_size = (768, 768)
panoptic_preprocessor = dict(
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
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
