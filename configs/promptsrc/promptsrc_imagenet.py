# PromptSRC on ImageNet, 16 shots, ViT-B/16, as for base-to-new. Transfer to other sets and domains: depth=3,
# visual_depth=3, mean=6, std=10. Few-shot: 50 epochs, mean=30, std=30.
#   python tools/train.py configs/promptsrc/promptsrc_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/promptsrc_20e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(
        type='vlm_dense.PromptSRCPrompt',
        words='a photo of a',
        num_contexts=4,
        depth=9,
        num_tokens=4,
        visual_depth=9,
        text_weight=25.0,
        image_weight=10.0,
    )
)
train_dataloader = dict(batch_size=4)
default_hooks = dict(average=dict(type='vlm_dense.PromptAverageHook', mean=15, std=1))
