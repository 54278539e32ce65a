# VT-CLIP on ImageNet, 16 shots, RN50. The paper's recipe is not public; rate and batch are those of its family.
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/vt_clip_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',), separators='_'),
    head=dict(type='vlm_dense.VTCLIP', num_layers=1, num_heads=8, zero_init=True),
)
train_dataloader = dict(batch_size=256)
optim_wrapper = dict(optimizer=dict(lr=1e-4))

# where the paper or its release gives these settings, for tools/compare.py --plan
published = []  # the recipe is not public
