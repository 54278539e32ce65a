# The source prompt of mvlpt_shapes.py: MUPT on four tasks at once, naming the shape in four domains.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_domains.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

# the tasks have the same class names, so that the softmax over all of them that is MVLPT's default cannot work
model = dict(
    text_prompt=dict(type='vlm_dense.MVLPTPrompt', num_contexts=4, num_tokens=4, project_dim=128),
    loss=dict(type='vlm_dense.TaskCrossEntropy', others='zero'),
)
