# CuPL on ImageNet, ViT-L/14, as published; nothing is trained. The sentences are a file of the release, or what
# tools/describe_classes.py extracts from a language model's answers.
#   python tools/test.py configs/cupl/cupl_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(arch='ViT-L-14'),
    text_encoder=dict(arch='ViT-L-14'),
    text_prompt=dict(type='vlm_dense.CuPLPrompt', sentences='data/cupl/imagenet.json', templates=()),
)
test_cfg = dict(type='TestLoop')

# where the paper or its release gives these settings, for tools/compare.py --plan
published = [
    dict(
        sets=[
            'imagenet',
            'caltech101',
            'food101',
            'oxford_flowers',
            'oxford_pets',
            'stanford_cars',
            'fgvc_aircraft',
            'sun397',
            'dtd',
            'ucf101',
        ],
        protocols=['few-shot'],
    )
]
