# CLIP-LoRA on ImageNet, 16 shots, ViT-B/16: queries, keys and values of all blocks of both towers.
#   python tools/train.py configs/clip_lora/clip_lora_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/clip_lora_8000i.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.CLIPLoRAPrompt', templates=('a photo of a {}.',), rank=2, alpha=1.0, dropout=0.25)
)
# a new epoch else waits for two seconds; officially the last batch of an epoch is smaller, here all have 32 images
train_dataloader = dict(sampler=dict(type='InfiniteSampler', shuffle=True), batch_sampler=None)
log_processor = dict(by_epoch=False)
default_hooks = dict(logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=2000))

# what the paper changes elsewhere, for tools/compare.py; it has one sentence for all sets
recipes = {
    'sentence': dict(sets='others', options={'model.text_prompt.templates': ('a photo of a {}.',)}),
    **{f'{n} shots': dict(shots=[n], length=500 * n) for n in (1, 2, 4, 8)},
}
published = [dict(protocols=['few-shot'])]
