# TCP on ImageNet, 16 shots, ViT-B/16: 25 epochs.
#   python tools/train.py configs/tcp/tcp_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/tcp_50e.py',
    '../_base_/classification_runtime.py',
]

max_epochs = 25
model = dict(
    text_prompt=dict(
        type='vlm_dense.TCPPrompt',
        template='a photo of a {}.',
        prompt_template='a photo of a {}.',
        num_contexts=4,
        block=8,
        weight=8.0,
    )
)
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / 0.002, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=1, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=25)

# what the release changes elsewhere, for tools/compare.py: the epochs, and the sentences of frozen CLIP and the prompt
recipes = {
    name: dict(
        sets=[name],
        length=epochs,
        options={'model.text_prompt.template': frozen, 'model.text_prompt.prompt_template': learned},
    )
    for name, epochs, frozen, learned in (
        ('caltech101', 50, 'a photo of a {}.', 'X X X X {}.'),
        ('sun397', 25, 'a photo of a {}.', 'X X X X {}.'),
        ('oxford_pets', 50, 'a photo of a {}, a type of pet.', 'X X X X {}, a type of pet.'),
        ('oxford_flowers', 50, 'a photo of a {}, a type of flower.', 'X X X X {}, a type of flower.'),
        ('food101', 50, 'a photo of a {}, a type of food.', 'X X X X {}, a type of food.'),
        ('fgvc_aircraft', 50, 'a photo of an aircraft {}.', 'X X X X {}, a type of aircraft.'),
        ('dtd', 50, 'a photo of a {}, a type of texture.', 'X X X X {} texture.'),
        ('eurosat', 50, 'a centered satellite photo of {}.', 'X X X X {}.'),
        ('stanford_cars', 50, 'a photo of a {}.', 'X X X X {}, a type of car'),
        ('ucf101', 50, 'a photo of a person doing {}.', 'a photo of a person doing {}.'),
    )
}
published = [dict(protocols=['base-to-new'], shots=[16]), dict(protocols=['few-shot'], shots=[4])]
