# PromptSRC on ImageNet, 16 shots, ViT-B/16, as for base-to-new.
#   python tools/train.py configs/promptsrc/promptsrc_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/promptsrc_20e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(
        type='vlm_dense.PromptSRCPrompt',
        templates='promptsrc',
        words='a photo of a',
        num_contexts=4,
        depth=9,
        num_tokens=4,
        visual_depth=9,
        text_weight=25.0,
        image_weight=10.0,
    )
)
train_dataloader = dict(batch_size=4)
default_hooks = dict(average=dict(type='vlm_dense.PromptAverageHook', mean=15, std=1))

# what the paper changes elsewhere, for tools/compare.py
recipes = {
    'few-shot': dict(
        protocols=['few-shot'],
        length=50,
        options={'default_hooks.average.mean': 30, 'default_hooks.average.std': 30},
    ),
    'few-shot, far sets': dict(
        protocols=['few-shot'],
        sets=['stanford_cars', 'oxford_flowers', 'fgvc_aircraft', 'dtd', 'eurosat'],
        options={'default_hooks.average.mean': 45, 'default_hooks.average.std': 5},
    ),
    'transfer': dict(
        protocols=['transfer', 'domain-generalisation'],
        options={
            'model.text_prompt.depth': 3,
            'model.text_prompt.visual_depth': 3,
            'default_hooks.average.mean': 6,
            'default_hooks.average.std': 10,
        },
    ),
}
published = [
    dict(protocols=['few-shot']),
    dict(protocols=['base-to-new', 'transfer', 'domain-generalisation'], shots=[16]),
]
