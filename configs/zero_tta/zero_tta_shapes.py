# ZERO on drawn scenes by night: 64 views of each test image, 19 of them vote; nothing is trained.
#   python tools/test.py configs/zero_tta/zero_tta_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',), separators='_'),
    test_time=dict(type='vlm_dense.ZERO', selection=0.3),
)
test_dataloader = dict(
    batch_size=10,
    dataset=dict(
        pipeline=[
            dict(type='vlm_dense.DrawScene'),
            dict(type='vlm_dense.TPTViews', num_views=64, size=64),
            dict(type='vlm_dense.PackClsInputs'),
        ]
    ),
)
test_cfg = dict(type='vlm_dense.ResumableTestLoop')
