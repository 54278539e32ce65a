# MVLPT's prompts of both towers (MUPT) on two tasks at once, naming the shape and naming the colour, by night.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_tasks.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.MVLPTPrompt', num_contexts=4, num_tokens=4, project_dim=128),
    loss=dict(type='vlm_dense.TaskCrossEntropy', others='kept'),
)
