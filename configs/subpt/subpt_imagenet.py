# SubPT with NFL on ImageNet, 16 shots, RN50: 50 epochs of CoOp with NFL, 10 directions, then 50 epochs. NFL looks at
# the names of 100 classes of ImageNet, whatever the set of the training is; from base to new, at the new names.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/subpt_10-50e.py',
    '../_base_/names/imagenet100.py',
    '../_base_/classification_runtime.py',
]

early, epochs, lr = 50, 50, 0.002
model = dict(
    text_prompt=dict(
        type='vlm_dense.SubPTPrompt',
        num_contexts=16,
        novel_names={{_base_.novel_names}},
        template='imagenet80',
        weight=1.0,
    )
)
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=1, end=early),
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=early, end=early + 2),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=early + 1, end=early + epochs),
]
train_cfg = dict(max_epochs=early + epochs, val_interval=early)
default_hooks = dict(subspace=dict(type='vlm_dense.SubspaceHook', early=early, rank=10))

# what the paper changes elsewhere, for tools/compare.py: epochs of CoOp and directions by the number of shots, and on
# other sets also the epochs inside of the subspace; NFL's sentences stay those of ImageNet, as its names do
recipes = {
    'sentences of NFL': dict(sets='others', options={'model.text_prompt.template': 'imagenet80'}),
} | {
    f'{where}, {shots} shots': dict(
        sets='others' if where == 'others' else [where],
        shots=[shots],
        options={
            'train_cfg.max_epochs': early + epochs,
            'train_cfg.val_interval': early,
            'param_scheduler.1.T_max': epochs,
            'param_scheduler.1.end': early,
            'param_scheduler.2.begin': early,
            'param_scheduler.2.end': early + 2,
            'param_scheduler.3.T_max': epochs,
            'param_scheduler.3.begin': early + 1,
            'param_scheduler.3.end': early + epochs,
            'default_hooks.subspace.early': early,
            'default_hooks.subspace.rank': rank,
        },
    )
    for where, rows in (
        ('imagenet', ((1, 10, 5, 50), (2, 20, 10, 50), (4, 30, 10, 50), (8, 40, 10, 50))),
        ('others', ((1, 10, 5, 50), (2, 20, 10, 100), (4, 30, 10, 100), (8, 40, 10, 200), (16, 50, 10, 200))),
    )
    for shots, early, rank, epochs in rows
}
# on half of the classes NFL looks at the names of the other half
recipes |= {
    'names': dict(
        protocols=['base-to-new'],
        options={
            'model.text_prompt.novel_set': dict(
                type='vlm_dense.ImageSetDataset',
                name='{set}',
                data_root={{_base_.data_root}},
                split='test',
                classes='new',
            )
        },
    )
}
published = [dict(protocols=['few-shot']), dict(protocols=['base-to-new'], shots=[4])]
