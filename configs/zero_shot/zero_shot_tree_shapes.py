# Hand-written prompts along the tree of protect_shapes.py; nothing is trained.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_taxonomy.py',
    '../_base_/classification_runtime.py',
]

model = dict(class_names={{_base_.nodes}}, text_prompt=dict(type='vlm_dense.ZeroShotPrompt'))
test_cfg = dict(type='TestLoop')
