# Mask-Adapter on MAFT+ of CLIP's ConvNeXt-L, trained on COCO-Stuff, tested on PASCAL Context with all 459 classes.
# Published: 22.7 mIoU.
_base_ = [
    '../_base_/models/mask_adapter_maft-plus_convnext-l.py',
    '../_base_/datasets/context459.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(896, 896), keep_ratio=True),
    dict(type='vlm_dense.LoadWideMask'),
    dict(type='vlm_dense.CheckSeg', num_classes=459, ignore_index=65535),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
model = dict(trained_names='COCOStuffDataset')
