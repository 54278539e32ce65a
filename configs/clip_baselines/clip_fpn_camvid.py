# The baseline without text of denseclip_camvid.py, same budget.
_base_ = [
    '../_base_/models/clip_fpn_tiny-rn.py',
    '../_base_/datasets/camvid.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

model = dict(data_preprocessor=dict(size=(256, 256)), decode_head=dict(num_classes=11))

train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(interval=400, save_best='mIoU'))
