# Mask-Adapter on MAFT+ of CLIP's ConvNeXt-L, trained on COCO-Stuff, with mixed masks.
#   python tools/train.py configs/mask_adapter/mask_adapter_maft-plus_convnext-l_coco-stuff.py
# with --cfg-options load_from=CHECKPOINT: the checkpoint of the warm-up.
_base_ = [
    '../_base_/models/mask_adapter_maft-plus_convnext-l.py',
    '../_base_/datasets/coco-stuff171_lsj-1024.py',
    '../_base_/schedules/mask_adapter.py',
    '../_base_/default_runtime.py',
]

data_preprocessor = dict(size_divisor=32)
model = dict(data_preprocessor=data_preprocessor)
train_dataloader = dict(batch_size=3)
optim_wrapper = dict(optimizer=dict(weight_decay=2e-5))
param_scheduler = [dict(type='PolyLR', power=0.9, eta_min=0.0, by_epoch=False, end=_base_.max_iters)]
