# Variational prompts on ImageNet, 16 shots, ViT-B/16, one image a step, 10 samples, as released.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/cocoop_10e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.VariationalPrompt', words='a photo of a', num_samples=10))
train_dataloader = dict(batch_size=1)
