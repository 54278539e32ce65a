# Classification by description on ImageNet, ViT-B/16, as published; nothing is trained. The descriptors are a file of
# the release, or what tools/describe_classes.py makes of a language model's answers.
#   python tools/test.py configs/vcd/vcd_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.VCDPrompt', descriptors='data/vcd/imagenet.json', after='.'))
test_cfg = dict(type='TestLoop')
