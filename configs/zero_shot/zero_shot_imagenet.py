# CLIP's ViT-B/16 on ImageNet with the 80 published sentences; nothing is trained.
#   python tools/test.py configs/zero_shot/zero_shot_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet80'))
test_cfg = dict(type='TestLoop')

# where the paper or its release gives these settings, for tools/compare.py --plan
published = [dict(protocols=['few-shot', 'base-to-new', 'transfer', 'domain-generalisation'])]
