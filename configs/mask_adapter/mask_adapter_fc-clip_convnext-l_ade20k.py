# Mask-Adapter on FC-CLIP of CLIP's ConvNeXt-L, trained on COCO panoptic, tested on ADE20K, 150 classes.
# Published: 36.6 mIoU.
_base_ = [
    '../_base_/models/mask_adapter_fc-clip_convnext-l.py',
    '../_base_/datasets/ade20k.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(896, 896), keep_ratio=True),
    dict(type='LoadAnnotations', reduce_zero_label=True),
    dict(type='vlm_dense.CheckSeg', num_classes=150),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(masks_first=True, trained_names='CocoPanopticDataset')
train_dataloader = train_cfg = None
val_dataloader = val_evaluator = val_cfg = None
