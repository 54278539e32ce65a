# WiSE-FT on all of ImageNet, ViT-B/16, end to end; the curve of mixtures also on its four shifted test sets.
# Only the head: model.frozen_backbone=True.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/wise_ft.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet80'),
    head=dict(type='vlm_dense.WiSEFTHead'),
    frozen_backbone=False,
)
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[dict(type='RandomResizedCrop', size=224, scale=(0.9, 1.0), interpolation='bicubic')],
    ),
    dict(type='vlm_dense.PackClsInputs'),
]
train_dataloader = dict(batch_size=512, batch_sampler=None, dataset=dict(shots=None, pipeline=train_pipeline))
val_dataloader = None  # with all training images there are none for validation
val_evaluator = None
val_cfg = None
default_hooks = dict(
    prepare=dict(type='vlm_dense.PrepareHook'),
    wise_ft=dict(type='vlm_dense.WiSEFTHook', alpha=0.5),
)

# where the paper or its release gives these settings, for tools/compare.py --plan
published = [dict(sets=['imagenet'], protocols=['domain-generalisation'])]
