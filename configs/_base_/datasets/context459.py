# PASCAL Context val with all 459 classes (PC-459), as the field converts it. Layout:
# DATA_ROOT/images/validation/*.jpg, DATA_ROOT/annotations_detectron2/pc459_val/*.tif, DATA_ROOT/labels.txt.
data_root = 'data/VOCdevkit/VOC2010'
num_classes = 459
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
        type='vlm_dense.PascalContext459Dataset',
        data_root=data_root,
        data_prefix=dict(img_path='images/validation', seg_map_path='annotations_detectron2/pc459_val'),
        names_file='labels.txt',
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'], ignore_index=65535)
