# VP on ImageNet, 16 shots, ViT-B/32, a frame of 30 px. The paper trains on whole sets.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/vp_1000e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    backbone=dict(arch='ViT-B-32'),
    text_encoder=dict(arch='ViT-B-32'),
    text_prompt=dict(
        type='vlm_dense.ZeroShotPrompt', templates=['This is a photo of a {}'], separators='_-', lowercase=True
    ),
    image_prompt=dict(type='vlm_dense.VPPrompt', kind='padding', prompt_size=30, image_size=224),
)
# CLIP's own preprocessing, no augmentation
train_dataloader = dict(batch_size=256, batch_sampler=None, dataset=dict(pipeline={{_base_.test_pipeline}}))

# where the paper or its release gives these settings, for tools/compare.py --plan
published = []  # the paper trains on whole sets
