# FC-CLIP on CLIP's RN50, trained on COCO panoptic, tested on PASCAL VOC, 20 classes. Published: 89.5 mIoU.
_base_ = [
    '../_base_/models/fc_clip_rn50.py',
    '../_base_/datasets/voc20.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=20),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(trained_names='CocoPanopticDataset')
