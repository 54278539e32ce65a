# IVLP on ImageNet, 16 shots, ViT-B/16.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/maple_5e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(
        type='vlm_dense.IVLPPrompt', words='a photo of a', num_contexts=2, depth=12, num_tokens=2, visual_depth=12
    )
)
train_dataloader = dict(batch_size=4)

# where the paper or its release gives these settings, for tools/compare.py --plan
published = [dict(protocols=['base-to-new'], shots=[16])]
