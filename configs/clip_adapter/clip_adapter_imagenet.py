# CLIP-Adapter on ImageNet, 16 shots, RN50. For training in seconds an epoch, take imagenet_few-shot_features.py as data
# and add default_hooks = dict(prepare=dict(type='vlm_dense.PrepareHook')).
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/clip_adapter_200e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',), separators='_'),
    head=dict(type='vlm_dense.CLIPAdapter', ratio=0.2, reduction=4),
)

# where the paper or its release gives these settings, for tools/compare.py --plan
published = [dict(protocols=['few-shot'])]
