# DPT with CAVPT, 16 shots, on ImageNet, ViT-B/32; general knowledge guides the first 30 epochs.
_base_ = [
    '../_base_/models/clip_classifier_vit-b32.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/cavpt_100e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(
        type='vlm_dense.CAVPTPrompt', num_contexts=16, num_tokens=10, likely=10, template='a photo of a {}.'
    ),
    loss=dict(type='vlm_dense.CAVPTLoss', alpha=0.3, guided_epochs=30),
)

# what the authors change elsewhere, for tools/compare.py: the script of one shot has 60 epochs, and other sets warm the
# tokens of the image tower up for 10 epochs
recipes = {
    '1 shot': dict(shots=[1], length=60),
    'warm-up': dict(sets='others', options={'param_scheduler.0.warmup': 10}),
}
published = [dict(protocols=['few-shot'])]
