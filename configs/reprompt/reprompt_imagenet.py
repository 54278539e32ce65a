# RePrompt on ImageNet, 16 shots, ViT-B/16, by CoOp's conventions. A reconstruction, see README.md.
_base_ = [
    '../_base_/models/clip_classifier_vit-b16.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',), separators='_'),
    image_prompt=dict(type='vlm_dense.RePrompt', shots=16, num_tokens=4, depth=12, num_neighbours=8, tau=0.05),
)
support = dict(
    type='vlm_dense.ImageSetDataset',
    name='imagenet',
    data_root={{_base_.data_root}},
    split='train',
    shots=16,
    seed=1,
    pipeline={{_base_.test_pipeline}},
)
loading = dict(batch_size=256, num_workers=8)
default_hooks = dict(
    prepare=dict(
        type='vlm_dense.PrepareHook',
        data=dict(
            support=dict(dataset=support, **loading),
            search=dict(dataset={{_base_.val_dataloader.dataset}}, **loading),
        ),
    )
)

# where the paper or its release gives these settings, for tools/compare.py --plan
published = []  # a reconstruction
