# The bundled tiny-vit: a small ViT with patch 8 that learns to fit tiny-rn's text tower. See ../README.md.
_base_ = './pretrain_tiny-rn.py'
bundled = 'tiny-vit'

model = dict(type='vlm_dense.CaptionDistillation', arch=bundled, teacher='tiny-rn')

batch_size = 128
single, several = 1800, 1200  # iterations: images of one object first, then of none to five
max_iters = single + several
scenes = dict(
    type='vlm_dense.ShapesDataset',
    label='shape_colour',
    size=64,
    pipeline=[dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackCaptioned')],
)
train_dataloader = dict(
    batch_size=batch_size,
    sampler=dict(shuffle=False),
    dataset=dict(
        _delete_=True,
        type='ConcatDataset',
        datasets=[
            dict(num_scenes=single * batch_size, num_objects=(1, 1), seed=1, **scenes),
            dict(num_scenes=several * batch_size, num_objects=(0, 5), seed=2, **scenes),
        ],
    ),
)
train_cfg = dict(max_iters=max_iters, val_interval=300)
optim_wrapper = dict(optimizer=dict(lr=2e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=100, end=max_iters, by_epoch=False),
]
