# Mask-Adapter on MAFT+ of CLIP's ConvNeXt-L, trained on COCO-Stuff, the warm-up on masks of the data.
#   python tools/train.py configs/mask_adapter/mask_adapter_maft-plus_convnext-l_warmup_coco-stuff.py
# with --cfg-options load_from=CHECKPOINT: the released MAFT+.
_base_ = [
    '../_base_/models/mask_adapter_maft-plus_convnext-l.py',
    '../_base_/datasets/coco-stuff171_lsj-768.py',
    '../_base_/schedules/mask_adapter_warmup.py',
    '../_base_/default_runtime.py',
]

data_preprocessor = dict(size_divisor=32)
model = dict(data_preprocessor=data_preprocessor, stage='warmup')
train_dataloader = dict(batch_size=1)
