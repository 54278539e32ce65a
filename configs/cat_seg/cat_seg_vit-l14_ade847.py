# CAT-Seg on CLIP ViT-L/14 at 336 px, trained on COCO-Stuff, tested on ADE20K with all 847 classes.
# Published: 16.0 mIoU.
_base_ = [
    '../_base_/models/cat_seg_vit-l14.py',
    '../_base_/datasets/ade847.py',
    '../_base_/default_runtime.py',
]

test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='Resize', scale=(2560, 640), keep_ratio=True),
    dict(type='vlm_dense.LoadWideMask'),
    dict(type='vlm_dense.CheckSeg', num_classes=847, ignore_index=65535),
    dict(type='PackSegInputs'),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
