# UPT on ImageNet, 16 shots, ViT-B/16, 4 vectors of each tower.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.UPTPrompt', num_contexts=4))

# what the paper changes elsewhere, for tools/compare.py; with fewer than 16 shots, CoOp's epochs
recipes = {
    '2 or 4 shots': dict(sets='others', shots=[2, 4], length=100),
    '8 or 16 shots': dict(sets='others', shots=[8, 16], length=200),
    'caltech101': dict(sets=['caltech101'], protocols=['base-to-new'], shots=[16], length=10),
}
published = [dict(protocols=['few-shot']), dict(protocols=['base-to-new', 'domain-generalisation'], shots=[16])]
