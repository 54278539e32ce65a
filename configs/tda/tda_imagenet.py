# TDA on ImageNet, RN50, one view of each test image, in one stream that is shuffled once; nothing is trained. The order
# is part of the result: --seed changes it, and the log names it. A stopped test continues with the same caches.
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
        positive=dict(capacity=3, alpha=2.0, beta=5.0),
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

# what the authors change elsewhere, for tools/compare.py: the caches, 64 views of each image of ImageNet's variants,
# ImageNet's sentences for Caltech101
recipes = {
    **{
        name: dict(
            sets=[name],
            options={'model.test_time.positive.alpha': alpha, 'model.test_time.positive.beta': beta},
        )
        for name, alpha, beta in (
            ('imagenet-a', 2.0, 5.0),
            ('imagenetv2', 1.0, 8.0),
            ('imagenet-r', 1.0, 8.0),
            ('imagenet-sketch', 2.363, 7.45),
            ('caltech101', 5.0, 5.0),
            ('dtd', 2.0, 3.0),
            ('eurosat', 4.0, 8.0),
            ('fgvc_aircraft', 2.0, 2.0),
            ('food101', 1.0, 1.0),
            ('oxford_flowers', 1.0, 5.0),
            ('oxford_pets', 2.0, 7.0),
            ('stanford_cars', 1.0, 7.0),
            ('sun397', 2.0, 3.0),
            ('ucf101', 3.0, 8.0),
        )
    },
    'views': dict(
        sets=['imagenet-a', 'imagenetv2', 'imagenet-r', 'imagenet-sketch'],
        options={
            'test_dataloader.dataset.pipeline.1.num_views': 64,
            'test_dataloader.dataset.pipeline.1.mix': True,
        },
    ),
    'caltech101, sentences': dict(sets=['caltech101'], options={'model.text_prompt.templates': 'imagenet7'}),
}
published = [dict(protocols=['few-shot', 'transfer', 'domain-generalisation'])]
