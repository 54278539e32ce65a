# CoOp on a folder of images for each class of your own with the bundled tiny-vit, to try the data.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/own_folders_64.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=16))
