# GDA-CLIP, 16 shots, on drawn scenes by night; nothing is trained. alpha is searched on validation images.
#   python tools/test.py configs/gda_clip/gda_clip_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot_features.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    head=dict(type='vlm_dense.GDACLIP', passes=4),
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
