# Linear probe, 16 shots, on drawn scenes by night; fitted before the test. solver='sklearn' is the published recipe and
# needs scikit-learn.
#   python tools/test.py configs/linear_probe/linear_probe_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_plain_features.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
    head=dict(type='vlm_dense.LinearProbe', solver='exact'),
)
default_hooks = dict(
    prepare=dict(
        type='vlm_dense.PrepareHook',
        data=dict(
            support=dict(dataset={{_base_.train_dataloader.dataset}}),
            search=dict(dataset={{_base_.val_dataloader.dataset}}),
        ),
    )
)
test_cfg = dict(type='TestLoop')
