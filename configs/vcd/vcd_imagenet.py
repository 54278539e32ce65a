# Classification by description on ImageNet, ViT-B/16, as published; nothing is trained. The descriptors are a file of
# the release, with classes paired by order, or the output of tools/describe_classes.py for a language model's answers:
# then by_order=False.
#   python tools/test.py configs/vcd/vcd_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.VCDPrompt', descriptors='data/vcd/imagenet.json', by_order=True, after='.')
)
test_cfg = dict(type='TestLoop')

# what the authors change elsewhere, for tools/compare.py: only sentences of ImageNet end in a full stop
recipes = dict(
    sentences=dict(sets='others', options={'model.text_prompt.after': '', 'model.text_prompt.by_order': False})
)
published = [dict(sets=['imagenet', 'dtd', 'eurosat', 'food101', 'oxford_pets'], protocols=['few-shot'])]
