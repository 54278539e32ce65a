# MVLPT's source prompt (MUPT): ELEVATER's 20 sets at once, ViT-B/16, 20 shots; the paper also has 1 and 5. Everything
# else as on the 11 sets of CoOp, mvlpt_coop11.py.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/elevater20_tasks.py',
    '../_base_/schedules/mvlpt_200e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.MVLPTPrompt', num_contexts=4, num_tokens=4, project_dim=128),
    loss=dict(type='vlm_dense.TaskCrossEntropy', others='kept'),
)
published = [dict(protocols=['tasks'], shots=[1, 5, 20])]
