# CALIP on ImageNet, RN50; nothing is trained. The betas are searched on validation images (4 of each class, drawn from
# the training images), where the official code takes the test images: calip_on-test_imagenet.py.
#   python tools/test.py configs/calip/calip_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet7', separators='_'),
    head=dict(type='vlm_dense.CALIP', search_max=(2.0, 0.1), search_step=(200, 200)),
)
default_hooks = dict(
    prepare=dict(
        type='vlm_dense.PrepareHook',
        data=dict(search=dict(dataset={{_base_.val_dataloader.dataset}}, batch_size=256, num_workers=8)),
    )
)
test_cfg = dict(type='TestLoop')

# where the paper or its release gives these settings, for tools/compare.py --plan
published = [dict(protocols=['few-shot'])]
