# TDA on ImageNet, RN50, one view of each test image, in one stream that is shuffled once; nothing is trained. The order
# is part of the result: --seed changes it, and the log names it. A test that was stopped goes on with the same caches.
#   python tools/test.py configs/tda/tda_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_few-shot.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet7', separators='_'),
    test_time=dict(
        type='vlm_dense.TDA',
        positive=dict(capacity=3, alpha=1.0, beta=8.0),
        negative=dict(capacity=2, alpha=0.117, beta=1.0, entropy=(0.2, 0.5), mask=(0.03, 1.0)),
    ),
)
test_dataloader = dict(
    batch_size=1,
    sampler=dict(_delete_=True, type='vlm_dense.StreamSampler', shuffle=True),
    dataset=dict(
        pipeline=[
            dict(type='vlm_dense.LoadImage'),
            dict(type='vlm_dense.TPTViews', num_views=1, size=224),
            dict(type='vlm_dense.PackClsInputs'),
        ]
    ),
)
test_cfg = dict(type='vlm_dense.ResumableTestLoop')
