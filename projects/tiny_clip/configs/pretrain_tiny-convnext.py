# The bundled tiny-convnext: a small ConvNeXt that learns to fit tiny-vit's text tower and its embeddings of images and
# patches. See ../README.md.
_base_ = './pretrain_tiny-rn.py'
bundled = 'tiny-convnext'

model = dict(
    type='vlm_dense.CaptionDistillation',
    arch=bundled,
    teacher='tiny-vit',
    teacher_weight=3.0,
    patch_weight=3.0,
)

batch_size = 32
turns = 600  # a batch of images of one object and one of none to five in each
max_iters = 2 * turns
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
            dict(num_scenes=turns * batch_size, num_objects=(1, 1), size=64, seed=21, **scenes),
            dict(num_scenes=turns * batch_size, num_objects=(0, 5), size=96, seed=22, **scenes),
        ],
    ),
)
train_cfg = dict(max_iters=max_iters, val_interval=600)
optim_wrapper = dict(optimizer=dict(lr=3e-3), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=100, end=max_iters, by_epoch=False),
]
