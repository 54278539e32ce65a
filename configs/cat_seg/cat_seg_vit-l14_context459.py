# CAT-Seg on CLIP ViT-L/14 at 336 px, trained on COCO-Stuff, tested on PASCAL Context with all 459 classes.
# Published: 23.8 mIoU.
_base_ = [
    '../_base_/models/cat_seg_vit-l14.py',
    '../_base_/datasets/context459.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    dict(type='vlm_dense.LoadWideMask'),
    dict(type='vlm_dense.CheckSeg', num_classes=459, ignore_index=65535),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
