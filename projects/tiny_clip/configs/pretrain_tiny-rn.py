# The bundled tiny-rn: a CLIP with a ModifiedResNet, trained from captions of Shapes. See ../README.md.
default_scope = 'mmengine'
custom_imports = dict(imports=['tiny_clip'])
bundled = 'tiny-rn'

model = dict(
    type='vlm_dense.CaptionPretraining',
    arch=bundled,
    data_preprocessor=dict(
        type='ImgDataPreprocessor',
        mean=[122.7709383, 116.7460125, 104.09373615],
        std=[68.5005327, 66.6321579, 70.3231630],
        bgr_to_rgb=True,
    ),
)

pipeline = [dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackCaptioned')]
scenes = dict(type='vlm_dense.ShapesDataset', label='shape_colour', size=64, pipeline=pipeline)
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='InfiniteSampler', shuffle=True),
    collate_fn=dict(type='default_collate'),
    dataset=dict(
        type='ConcatDataset',
        datasets=[
            dict(num_scenes=192_000, num_objects=(1, 1), seed=1, **scenes),
            dict(num_scenes=192_000, num_objects=(2, 5), seed=2, **scenes),
            dict(num_scenes=16_000, num_objects=(0, 0), seed=3, **scenes),
        ],
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(num_scenes=4000, num_objects=(1, 1), split='val', **scenes),
)
val_evaluator = dict(type='vlm_dense.ZeroShotShapes')
test_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(num_scenes=8000, num_objects=(1, 1), split='test', **scenes),
)
test_evaluator = val_evaluator

max_iters = 3000
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=500)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    optimizer=dict(type='AdamW', lr=1e-3, betas=(0.9, 0.98), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
    paramwise_cfg=dict(
        norm_decay_mult=0,
        bias_decay_mult=0,
        custom_keys=dict(
            token_embedding=dict(decay_mult=0),
            positional_embedding=dict(decay_mult=0),
            class_embedding=dict(decay_mult=0),
            logit_scale=dict(decay_mult=0),
        ),
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=150, by_epoch=False),
    dict(type='CosineAnnealingLR', eta_min=1e-6, begin=150, end=max_iters, by_epoch=False),
]
default_hooks = dict(
    logger=dict(type='LoggerHook', interval=50),
    checkpoint=dict(type='vlm_dense.SafeCheckpointHook', interval=250, by_epoch=False, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
randomness = dict(seed=0)
