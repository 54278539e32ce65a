# Variational prompts on ImageNet, 16 shots, ViT-B/16, one image a step, 10 samples, as released.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/cocoop_10e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.VariationalPrompt', words='a photo of a', num_samples=10))
train_dataloader = dict(batch_size=1)

# samples and epochs of the release's README, for tools/compare.py; transfers keep those of ImageNet
recipes = {
    name: dict(
        sets=[name],
        protocols=['few-shot', 'base-to-new'],
        length=epochs,
        options={'model.text_prompt.num_samples': samples},
    )
    for name, samples, epochs in (
        ('caltech101', 20, 20),
        ('oxford_pets', 40, 20),
        ('stanford_cars', 20, 40),
        ('oxford_flowers', 10, 40),
        ('food101', 20, 20),
        ('fgvc_aircraft', 10, 10),
        ('sun397', 20, 10),
        ('dtd', 40, 10),
        ('eurosat', 20, 60),
        ('ucf101', 5, 20),
    )
}
published = [
    dict(protocols=['base-to-new'], shots=[16]),
    dict(protocols=['transfer', 'domain-generalisation'], shots=[16]),
]
