# Mask-Adapter on drawn scenes with the bundled tiny-rn; crescents and hearts are neither shown nor named in training.
#   python tools/train.py configs/mask_adapter/mask_adapter_shapes.py
# One run trains an FC-CLIP, then the adapter on masks of the data, then on mixed masks. Each validation prints mIoU of
# all 9 classes, of the 7 seen and of the 2 unseen ones, and their harmonic mean.
_base_ = [
    '../_base_/models/mask_adapter_tiny-rn.py',
    '../_base_/datasets/shapes_held-out.py',
    '../_base_/schedules/fc_clip.py',
    '../_base_/default_runtime.py',
]

stages = dict(proposals=0, warmup=600, mixed=800)
max_iters = 1000
model = dict(stage='proposals', trained_names=['background', *_base_.seen])
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [  # a CosineAnnealingLR behind another one would go on from its end, 0
    dict(type='CosineRestartLR', periods=[600, 400], restart_weights=[1, 1], eta_min=0.0, by_epoch=False),
]
train_cfg = dict(max_iters=max_iters, val_interval=1000)
default_hooks = dict(checkpoint=dict(interval=200))
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='vlm_dense.ClassNamesHook'),
    dict(type='vlm_dense.StagesHook', stages=stages),
]
