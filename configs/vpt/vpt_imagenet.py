# VPT-shallow on ImageNet, 16 shots, ViT-B/16: tokens of the first block flow on.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/vpt_5e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',)),
    image_prompt=dict(type='vlm_dense.VPTPrompt', num_tokens=8, depth=1),
)
train_dataloader = dict(batch_size=4)

# one sentence for all sets, as in MaPLe's repository, where tools/compare.py else takes that of the set
recipes = dict(sentence=dict(sets='others', options={'model.text_prompt.templates': ('a photo of a {}.',)}))
published = [dict(protocols=['base-to-new'], shots=[16])]
