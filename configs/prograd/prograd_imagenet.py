# ProGrad on ImageNet, RN50, 4 shots as in the paper's base-to-new, domain shift and cross-data-set tables: 50 epochs.
#   python tools/train.py configs/prograd/prograd_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(
        type='vlm_dense.ProGradPrompt',
        template='a photo of a {}.',
        num_contexts=16,
        temperature=1.0,
        strength=1.0,
    )
)
train_dataloader = dict(dataset=dict(shots=4))
val_dataloader = dict(dataset=dict(shots=4))
optim_wrapper = dict(type='vlm_dense.ProGradOptimWrapper')

# what the paper changes elsewhere, for tools/compare.py
recipes = {
    '2 or 4 shots': dict(sets='others', shots=[2, 4], length=100),
    '8 or 16 shots': dict(sets='others', shots=[8, 16], length=200),
    'weaker': dict(
        sets=['oxford_flowers', 'dtd', 'eurosat'], shots=[8, 16], options={'model.text_prompt.strength': 0.8}
    ),
    **{
        name: dict(sets=[name], options={'model.text_prompt.template': template})
        for name, template in (
            ('oxford_pets', 'a type of pet, a photo of a {}.'),
            ('oxford_flowers', 'a type of flower, a photo of a {}.'),
            ('fgvc_aircraft', 'a type of aircraft, a photo of a {}.'),
            ('food101', 'a type of food, a photo of {}.'),
            ('dtd', 'a texture of {}.'),
        )
    },
}
published = [
    dict(protocols=['few-shot']),
    dict(protocols=['base-to-new', 'transfer', 'domain-generalisation'], shots=[4]),
]
