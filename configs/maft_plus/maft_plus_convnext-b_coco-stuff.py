# MAFT+ on CLIP's ConvNeXt-B, trained on COCO-Stuff, 171 classes.
_base_ = [
    '../_base_/models/maft_plus_convnext-b.py',
    '../_base_/datasets/coco-stuff171_800.py',
    '../_base_/schedules/maft_plus.py',
    '../_base_/default_runtime.py',
]

data_preprocessor = dict(size_divisor=32)
model = dict(data_preprocessor=data_preprocessor)

max_iters = 60000
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, end=max_iters)]
train_cfg = dict(max_iters=max_iters)
