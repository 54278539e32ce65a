# KgCoOp on ImageNet, 16 shots, ViT-B/16.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/kgcoop_100e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.KgCoOpPrompt', words='a photo of a', template='a photo of a {}.', weight=8.0)
)
train_dataloader = dict(batch_size=128)

# what the paper changes elsewhere, for tools/compare.py; the other sentences are CoOp's
recipes = dict(
    dtd=dict(sets=['dtd'], options={'model.text_prompt.template': 'a photo of a {}, a type of texture.'}),
)
published = [dict(protocols=['base-to-new', 'domain-generalisation'], shots=[16])]
