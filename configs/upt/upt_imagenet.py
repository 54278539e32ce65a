# UPT on ImageNet, 16 shots, ViT-B/16, 4 vectors of each tower. Other sets: 200 epochs, Caltech101 10.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.UPTPrompt', num_contexts=4))
