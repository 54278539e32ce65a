# DeCLIP on EVA-02-CLIP's ViT-B/16 with DINOv2's ViT-B/14, image patches of COCO; the published training has --amp on 4
# GPUs with 4 images each.
_base_ = [
    '../_base_/models/declip_eva02-b16.py',
    '../_base_/datasets/coco_regions.py',
    '../_base_/schedules/clipself_6e.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmdet'

sizes = dict(image_size=560, crop_size=224, proxy_size=490)  # 35 x 35 patches of both
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='vlm_dense.GridBoxes', max_split=6, max_boxes=20),
    dict(type='vlm_dense.PackRegions', **sizes),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='vlm_dense.PackRegions', image_size=560),
]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(
    logger=dict(log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1),
    mixed_tower=dict(type='vlm_dense.MixedTowerHook', alpha=0.7),
)
