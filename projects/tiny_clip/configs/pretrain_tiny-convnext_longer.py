# The bundled tiny-convnext, second stage: the same on new scenes, begins where the first ended. See ../README.md.
_base_ = './pretrain_tiny-convnext.py'

model = dict(pretrained='work_dirs/pretrain_tiny-convnext/tiny-convnext.safetensors')  # what the first stage wrote

max_iters = 800
scenes = dict(
    type='vlm_dense.ShapesDataset',
    label='shape_colour',
    num_scenes=12_800,
    pipeline=[dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackCaptioned')],
)
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(num_objects=(1, 1), size=64, seed=31, **scenes),
            dict(num_objects=(0, 5), size=96, seed=32, **scenes),
        ],
    ),
)
train_cfg = dict(max_iters=max_iters, val_interval=800)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=50, end=max_iters, by_epoch=False),
]
