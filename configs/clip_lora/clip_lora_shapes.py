# CLIP-LoRA, 16 shots, on drawn scenes by night: fewer iterations than the recipe's, at a greater rate.
#   python tools/train.py configs/clip_lora/clip_lora_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/clip_lora_8000i.py',
    '../_base_/classification_runtime.py',
]

max_iters = 800
model = dict(text_prompt=dict(type='vlm_dense.CLIPLoRAPrompt'))
train_dataloader = dict(sampler=dict(type='InfiniteSampler', shuffle=True))  # a new epoch else waits for two seconds
optim_wrapper = dict(optimizer=dict(lr=1e-3))
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=max_iters, eta_min=1e-6, by_epoch=False, begin=0, end=max_iters)
]
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
log_processor = dict(by_epoch=False)
default_hooks = dict(logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=max_iters))
