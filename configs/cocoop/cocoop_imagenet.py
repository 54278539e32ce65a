# CoCoOp on ImageNet, 16 shots, ViT-B/16, one image a step.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/cocoop_10e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.CoCoOpPrompt', words='a photo of a'))
train_dataloader = dict(batch_size=1)

# where the paper or its release gives these settings, for tools/compare.py --plan
published = [dict(protocols=['base-to-new', 'transfer', 'domain-generalisation'], shots=[16])]
