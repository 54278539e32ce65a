# PLOT on ImageNet, 16 shots, RN50, 4 prompts of 16 vectors, with the global term that only ImageNet has.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.PLOTPrompt', num_prompts=4, num_contexts=16, global_term=True))
train_dataloader = dict(batch_size=128)

# what the authors change elsewhere, for tools/compare.py
recipes = dict(local=dict(sets='others', options={'model.text_prompt.global_term': False}))
published = [dict(protocols=['few-shot'])]
