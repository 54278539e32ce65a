# CoOp on a folder of images for each class of your own, CLIP ViT-B/16.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/own_folders.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=16))
train_dataloader = dict(num_workers=4, persistent_workers=True)
val_dataloader = dict(num_workers=4, persistent_workers=True)
test_dataloader = dict(num_workers=4, persistent_workers=True)
