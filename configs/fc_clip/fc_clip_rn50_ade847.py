# FC-CLIP on CLIP's RN50, trained on COCO panoptic, tested on ADE20K with all 847 classes. Published: 7.1 mIoU.
_base_ = [
    '../_base_/models/fc_clip_rn50.py',
    '../_base_/datasets/ade847.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(1333, 800), keep_ratio=True),
    dict(type='vlm_dense.LoadWideMask'),
    dict(type='vlm_dense.CheckSeg', num_classes=847, ignore_index=65535),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(trained_names='CocoPanopticDataset')
