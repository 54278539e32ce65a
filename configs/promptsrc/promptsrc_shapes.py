# PromptSRC, 16 shots, on drawn scenes by night.
#   python tools/train.py configs/promptsrc/promptsrc_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/promptsrc_20e.py',
    '../_base_/classification_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.PromptSRCPrompt', depth=3, visual_depth=4))
train_dataloader = dict(batch_size=4)
default_hooks = dict(average=dict(type='vlm_dense.PromptAverageHook', mean=15, std=1))
