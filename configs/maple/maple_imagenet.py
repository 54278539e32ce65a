# MaPLe on ImageNet, 16 shots, ViT-B/16, as for base-to-new.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/maple_5e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.MaPLePrompt', words='a photo of a', num_contexts=2, depth=9))
train_dataloader = dict(batch_size=4)

# what the paper changes elsewhere, for tools/compare.py
recipes = {
    'transfer': dict(
        protocols=['transfer', 'domain-generalisation'],
        length=2,
        options={
            'model.text_prompt.depth': 3,
            'optim_wrapper.optimizer.lr': 0.0026,
            'param_scheduler.0.factor': 1e-5 / 0.0026,
        },
    ),
}
published = [dict(protocols=['base-to-new', 'transfer', 'domain-generalisation'], shots=[16])]
