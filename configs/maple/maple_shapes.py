# MaPLe, 16 shots, on drawn scenes by night.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/maple_5e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.MaPLePrompt', words='a photo of a', num_contexts=2, depth=3))
train_dataloader = dict(batch_size=4)
