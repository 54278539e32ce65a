# PASCAL VOC 2012 val without the background: its pixels are ignored. Layout: DATA_ROOT/JPEGImages/*.jpg,
# DATA_ROOT/SegmentationClass/*.png, DATA_ROOT/ImageSets/Segmentation/val.txt.
data_root = 'data/VOCdevkit/VOC2012'
num_classes = 20
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=num_classes),
    dict(type='PackSegInputs'),
]
classes = (
    'aeroplane',
    'bicycle',
    'bird',
    'boat',
    'bottle',
    'bus',
    'car',
    'cat',
    'chair',
    'cow',
    'diningtable',
    'dog',
    'horse',
    'motorbike',
    'person',
    'pottedplant',
    'sheep',
    'sofa',
    'train',
    'tvmonitor',
)
test_dataloader = dict(
    batch_size=4,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='PascalVOCDataset',
        data_root=data_root,
        metainfo=dict(classes=classes),
        data_prefix=dict(img_path='JPEGImages', seg_map_path='SegmentationClass'),
        ann_file='ImageSets/Segmentation/val.txt',
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='IoUMetric', iou_metrics=['mIoU'])
