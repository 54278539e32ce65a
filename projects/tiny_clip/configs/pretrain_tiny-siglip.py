# The bundled tiny-siglip: a small SigLIP that begins with tiny-vit's blocks and meets its embeddings of images, patches
# and captions. See ../README.md.
_base_ = './pretrain_tiny-rn.py'
bundled = 'tiny-siglip'

model = dict(
    type='vlm_dense.SigmoidDistillation',
    arch=bundled,
    teacher='tiny-vit',
    start='tiny-vit',
    teacher_weight=3.0,
    patch_weight=3.0,
)

batch_size = 64
turns = 320  # a batch of images of one object and one of none to five in each
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
train_cfg = dict(max_iters=max_iters, val_interval=320)
optim_wrapper = dict(
    optimizer=dict(lr=2e-3),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(custom_keys=dict(pos_embed=dict(decay_mult=0), logit_bias=dict(decay_mult=0))),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-5, begin=50, end=max_iters, by_epoch=False),
]
