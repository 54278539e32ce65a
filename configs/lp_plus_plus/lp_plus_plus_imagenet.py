# LP++ on ImageNet, 16 shots, RN50; fitted before the test, of one augmented pass over the training images. The authors
# take 16 more of the training images for validation, augmented too; here they are 16 of the validation split.
#   python tools/test.py configs/lp_plus_plus/lp_plus_plus_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_one-pass_features.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet7', separators='_'),
    head=dict(type='vlm_dense.LPPlusPlus', epochs=300, alpha_every=10, momentum=0.9),
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

# where the paper or its release gives these settings, for tools/compare.py --plan
published = [dict(protocols=['few-shot'])]
