# LP++, 16 shots and 16 validation images of a class, on drawn scenes by night; fitted before the test.
#   python tools/test.py configs/lp_plus_plus/lp_plus_plus_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_one-pass_features.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    head=dict(type='vlm_dense.LPPlusPlus'),
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
