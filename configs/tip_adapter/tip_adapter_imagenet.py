# Tip-Adapter on ImageNet, 16 shots, RN50; nothing is trained. alpha and beta are searched on validation images, where
# the official code takes the test images: tip_adapter_on-test_imagenet.py.
#   python tools/test.py configs/tip_adapter/tip_adapter_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_tip-adapter_features.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet7', separators='_'),
    head=dict(
        type='vlm_dense.TipAdapter',
        shots=16,
        passes=10,
        alpha=1.17,
        beta=1.0,
        search_scale=(7, 3),
        search_step=(200, 20),
    ),
)
default_hooks = dict(
    prepare=dict(
        type='vlm_dense.PrepareHook',
        data=dict(
            support=dict(dataset={{_base_.train_dataloader.dataset}}, batch_size=256),
            search=dict(dataset={{_base_.val_dataloader.dataset}}, batch_size=256),
        ),
    )
)
test_cfg = dict(type='TestLoop')

# what the authors change elsewhere, for tools/compare.py: they search on all validation images, which ImageNet has not
recipes = {
    'search': dict(sets='others', options={'default_hooks.prepare.data.search.dataset.dataset.shots': None}),
    **{
        name: dict(sets=[name], options={'model.head.alpha': alpha, 'model.head.search_scale': scale})
        for name, alpha, scale in (
            ('caltech101', 3.0, (12, 5)),
            ('oxford_pets', 1.17, (7, 3)),
            ('stanford_cars', 3.0, (20, 10)),
            ('oxford_flowers', 10.0, (50, 50)),
            ('food101', 1.17, (10, 10)),
            ('fgvc_aircraft', 5.0, (30, 30)),
            ('sun397', 1.17, (12, 10)),
            ('dtd', 2.0, (13, 13)),
            ('eurosat', 2.0, (12, 10)),
            ('ucf101', 3.0, (7, 3)),
        )
    },
}
published = [dict(protocols=['few-shot'])]
