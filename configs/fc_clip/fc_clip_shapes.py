# FC-CLIP on drawn scenes with the bundled tiny-rn; crescents and hearts are neither shown nor named in training.
#   python tools/train.py configs/fc_clip/fc_clip_shapes.py
# Each validation prints mIoU of all 9 classes, of the 7 seen and of the 2 unseen ones, and their harmonic mean.
_base_ = [
    '../_base_/models/fc_clip_tiny-rn.py',
    '../_base_/datasets/shapes_held-out.py',
    '../_base_/schedules/fc_clip.py',
    '../_base_/default_runtime.py',
]

max_iters = 600
size = 128  # at 96 px CLIP's last map has 3 x 3 positions, too few for the second classifier
model = dict(data_preprocessor=dict(size=(size, size)), trained_names=['background', *_base_.seen])
train_dataloader = dict(batch_size=8, dataset=dict(size=size))
val_dataloader = dict(dataset=dict(size=size))
test_dataloader = dict(dataset=dict(size=size))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=0.0, by_epoch=False)]
train_cfg = dict(max_iters=max_iters, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
custom_hooks = [*_base_.custom_hooks, dict(type='vlm_dense.ClassNamesHook')]
