# CLIPSelf on EVA-02-CLIP's ViT-B/16 with image patches of COCO; the published training has --amp on 8 GPUs.
_base_ = [
    '../_base_/models/clipself_eva02-b16.py',
    '../_base_/datasets/coco_regions.py',
    '../_base_/schedules/clipself_6e.py',
    '../_base_/default_runtime.py',
]
default_scope = 'mmdet'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1),
    mixed_tower=dict(type='vlm_dense.MixedTowerHook', alpha=0.7),
)
