# DenseCLIP with RetinaNet on boxes of your own, CLIP RN50: for a GPU.
_base_ = [
    '../_base_/models/denseclip_retinanet_rn50.py',
    '../_base_/datasets/own_coco_800.py',
    '../_base_/schedules/denseclip_det_1x.py',
    '../_base_/detection_runtime_iters.py',
]

max_iters = 4000
model = dict(bbox_head=dict(num_classes=None))
train_dataloader = dict(batch_size=8, num_workers=4, persistent_workers=True)
val_dataloader = dict(num_workers=4, persistent_workers=True)
test_dataloader = dict(num_workers=4, persistent_workers=True)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, by_epoch=False, begin=0, end=200),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, by_epoch=False, begin=200, end=max_iters),
]
train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=max_iters, val_interval=500)
default_hooks = dict(checkpoint=dict(interval=500, save_best='coco/bbox_mAP', rule='greater'))
