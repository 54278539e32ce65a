# RePrompt, 16 shots, on drawn scenes by night. A reconstruction, see README.md.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/coop_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    image_prompt=dict(type='vlm_dense.RePrompt', shots=16, num_tokens=4, depth=4, num_neighbours=8, tau=0.05),
)
support = dict(
    type='vlm_dense.FewShotDataset',
    shots=16,
    seed=1,
    dataset=dict(
        type='vlm_dense.ShapesDataset',
        size=64,
        num_objects=(1, 1),
        label='shape',
        domain='night',
        split='train',
        num_scenes=1000,
        pipeline={{_base_.test_pipeline}},
    ),
)
default_hooks = dict(
    prepare=dict(
        type='vlm_dense.PrepareHook',
        data=dict(support=dict(dataset=support), search=dict(dataset={{_base_.val_dataloader.dataset}})),
    )
)
