# Second stage of the bundled tiny-vit: its patch values learn from captions of mosaics. See ../README.md.
_base_ = './pretrain_tiny-rn.py'
bundled = 'tiny-vit'

model = dict(
    type='vlm_dense.PatchCaptions',
    arch=bundled,
    pretrained='work_dirs/pretrain_tiny-vit/tiny-vit.safetensors',  # what the first stage wrote
)

batch_size = 64
turns = 600
max_iters = 3 * turns
scenes = dict(
    type='vlm_dense.ShapesDataset',
    label='shape_colour',
    pipeline=[dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackCaptioned')],
)
train_dataloader = dict(
    batch_size=batch_size,
    sampler=dict(shuffle=False),
    dataset=dict(
        _delete_=True,
        type='vlm_dense.BlockwiseDataset',
        block=batch_size,
        datasets=[
            dict(num_scenes=turns * batch_size, num_objects=(1, 1), size=64, seed=11, **scenes),
            dict(
                type='vlm_dense.CaptionedMosaic',
                dataset=dict(num_scenes=turns * batch_size * 4, num_objects=(0, 1), size=48, seed=12, **scenes),
            ),
            dict(num_scenes=turns * batch_size, num_objects=(2, 5), size=96, seed=13, **scenes),
        ],
    ),
)
train_cfg = dict(max_iters=max_iters, val_interval=300)
optim_wrapper = dict(optimizer=dict(lr=1.5e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=50, end=max_iters, by_epoch=False),
]
