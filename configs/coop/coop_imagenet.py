# CoOp on ImageNet, 16 shots, RN50, 16 vectors; the paper's main setting.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=16))

# what the paper changes elsewhere, for tools/compare.py
recipes = {
    '2 or 4 shots': dict(sets='others', shots=[2, 4], length=100),
    '8 or 16 shots': dict(sets='others', shots=[8, 16], length=200),
}
published = [dict(protocols=['few-shot']), dict(protocols=['domain-generalisation'], shots=[16])]
