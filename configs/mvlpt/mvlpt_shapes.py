# MVLPT's prompts of both towers (MUPT), 16 shots, on one target task, shapes by night.
# From a source prompt: mvlpt_from-domains_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.MVLPTPrompt', num_contexts=4, num_tokens=4, project_dim=128))
