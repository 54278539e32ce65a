# GDA-CLIP on ImageNet, 16 shots, RN50; nothing is trained. alpha is searched on validation images, where the official
# code takes the test images.
#   python tools/test.py configs/gda_clip/gda_clip_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_tip-adapter_features.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet7', separators='_'),
    head=dict(type='vlm_dense.GDACLIP', passes=10),
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
recipes = dict(search=dict(sets='others', options={'default_hooks.prepare.data.search.dataset.dataset.shots': None}))
published = [dict(protocols=['few-shot'])]
