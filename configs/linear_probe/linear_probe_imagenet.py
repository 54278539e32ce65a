# Linear probe on ImageNet, 16 shots, RN50; fitted before the test. Needs scikit-learn: pip install 'vlm-dense[probe]'.
#   python tools/test.py configs/linear_probe/linear_probe_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_plain_features.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',)),
    head=dict(type='vlm_dense.LinearProbe', solver='sklearn'),
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
