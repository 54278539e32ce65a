# ADE20K val with all 847 classes, as MaskFormer converts the full data set. Layout:
# DATA_ROOT/images_detectron2/validation/*.jpg, DATA_ROOT/annotations_detectron2/validation/*.tif,
# DATA_ROOT/classes.txt.
data_root = 'data/ade/ADE20K_2021_17_01'
num_classes = 847
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    dict(type='vlm_dense.LoadWideMask'),
    dict(type='vlm_dense.CheckSeg', num_classes=num_classes, ignore_index=65535),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='vlm_dense.ADE847Dataset',
        data_root=data_root,
        data_prefix=dict(img_path='images_detectron2/validation', seg_map_path='annotations_detectron2/validation'),
        names_file='classes.txt',
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'], ignore_index=65535)
