# MVLPT's prompts of both towers (MUPT), 20 shots, ViT-B/16, ImageNet as the target task.
# From a source prompt: --cfg-options load_from=work_dirs/mvlpt_coop11/epoch_200.pth
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/mvlpt_200e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.MVLPTPrompt', num_contexts=4, num_tokens=4, project_dim=128))
train_dataloader = dict(dataset=dict(shots=20))
val_dataloader = dict(dataset=dict(shots=20))

# where the paper or its release gives these settings, for tools/compare.py --plan
published = [dict(protocols=['few-shot'], shots=[1, 5, 20])]
