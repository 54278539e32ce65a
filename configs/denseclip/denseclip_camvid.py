# DenseCLIP on real road scenes with the bundled tiny-rn, which was pretrained on drawn shapes only.
_base_ = [
    '../_base_/models/denseclip_tiny-rn.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=dict(size=(256, 256)),
    backbone=dict(input_resolution=256),
    decode_head=dict(num_classes=None),
)

train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
