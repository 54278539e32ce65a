# TaskRes on ImageNet, 16 shots, RN50, with the paper's 8 sentences. For training in seconds an epoch, take
# imagenet_few-shot_features.py as data and add default_hooks = dict(prepare=dict(type='vlm_dense.PrepareHook')).
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/taskres_200e.py',
    '../_base_/classification_runtime.py',
]

lr = 2e-4
model = dict(text_prompt=dict(type='vlm_dense.TaskRes', templates='imagenet8', scale=0.5))
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=200, by_epoch=True, begin=1, end=200),
]

# what the paper changes elsewhere, for tools/compare.py
recipes = {
    'rate': dict(sets='others', options={'optim_wrapper.optimizer.lr': 2e-3, 'param_scheduler.0.factor': 1e-5 / 2e-3}),
    '1 to 4 shots': dict(shots=[1, 2, 4], length=100),
    'flowers': dict(sets=['oxford_flowers'], options={'model.text_prompt.scale': 1.0}),
}
published = [dict(protocols=['few-shot']), dict(protocols=['domain-generalisation'], shots=[16])]
