# TDA on drawn scenes by night, in one stream; nothing is trained. A stopped test continues with the same caches.
#   python tools/test.py configs/tda/tda_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',), separators='_'),
    test_time=dict(type='vlm_dense.TDA'),
)
test_dataloader = dict(
    batch_size=10,
    sampler=dict(_delete_=True, type='vlm_dense.StreamSampler'),
    dataset=dict(
        pipeline=[
            dict(type='vlm_dense.DrawScene'),
            dict(type='vlm_dense.TPTViews', num_views=1, size=64),
            dict(type='vlm_dense.PackClsInputs'),
        ]
    ),
)
test_cfg = dict(type='vlm_dense.ResumableTestLoop')
