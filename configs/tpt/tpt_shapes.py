# TPT on drawn scenes by night: 64 views of each test image, one step. A stopped test continues.
#   python tools/test.py configs/tpt/tpt_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.CoOpPrompt', words='a photo of a'),
    test_time=dict(
        type='vlm_dense.TPT', selection=0.1, steps=1, optimizer=dict(type='AdamW', lr=5e-3, weight_decay=0.01)
    ),
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
