# Variational prompts, 16 shots, on drawn scenes by night: one image a step, 10 samples.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/cocoop_10e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.VariationalPrompt', words='a photo of a', num_samples=10))
train_dataloader = dict(batch_size=1)
