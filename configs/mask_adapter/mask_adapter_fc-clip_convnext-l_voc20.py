# Mask-Adapter on FC-CLIP of CLIP's ConvNeXt-L, trained on COCO panoptic, tested on PASCAL VOC, 20 classes.
# Published: 95.5 mIoU.
_base_ = [
    '../_base_/models/mask_adapter_fc-clip_convnext-l.py',
    '../_base_/datasets/voc20.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(896, 896), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='vlm_dense.CheckSeg', num_classes=20),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(trained_names='CocoPanopticDataset')
