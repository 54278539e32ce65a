# TCP on ImageNet, 16 shots, ViT-B/16: 25 epochs, on other sets 50. Templates of other sets: see the README.
#   python tools/train.py configs/tcp/tcp_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/tcp_50e.py',
    '../_base_/classification_runtime.py',
]

max_epochs = 25
model = dict(
    text_prompt=dict(
        type='vlm_dense.TCPPrompt',
        template='a photo of a {}.',
        prompt_template='a photo of a {}.',
        num_contexts=4,
        block=8,
        weight=8.0,
    )
)
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / 0.002, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=1, end=max_epochs),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=25)
