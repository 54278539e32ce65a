# APE on ImageNet, 16 shots, RN50; nothing is trained. alpha, beta and gamma are searched on validation images, where
# the official code takes the test images: ape_on-test_imagenet.py. The sentences are CuPL's, see configs/cupl.
#   python tools/test.py configs/ape/ape_imagenet.py
_base_ = '../tip_adapter/tip_adapter_imagenet.py'

model = dict(
    text_prompt=dict(
        _delete_=True,
        type='vlm_dense.CuPLPrompt',
        sentences='data/cupl/imagenet.json',
        templates='imagenet7',
    ),
    head=dict(
        _delete_=True,
        type='vlm_dense.APE',
        shots=16,
        passes=10,
        channels=500,
        weights=(0.7, 0.3),
        alpha=2.0,
        beta=1.0,
        gamma=0.1,
        search_scale=(7, 7, 0.5),
        search_step=(200, 20, 5),
    ),
)

# what the authors change elsewhere, for tools/compare.py: they search on all validation images, which ImageNet has not
recipes = {
    '_delete_': True,
    'search': dict(
        sets='others',
        options={
            'default_hooks.prepare.data.search.dataset.dataset.shots': None,
            'model.head.search_step': (200, 20, 20),
        },
    ),
    **{
        name: dict(
            sets=[name],
            options={
                'model.head.alpha': alpha,
                'model.head.channels': channels,
                'model.head.weights': weights,
                'model.head.search_scale': scale,
            },
        )
        for name, alpha, channels, weights, scale in (
            ('caltech101', 1.0, 800, (0.5, 0.5), (7, 7, 1)),
            ('dtd', 3.0, 400, (0.5, 0.5), (7, 7, 1)),
            ('eurosat', 1.0, 700, (0.9, 0.1), (30, 5, 1.5)),
            ('fgvc_aircraft', 5.0, 800, (0.1, 0.9), (20, 10, 1)),
            ('food101', 0.8, 700, (0.3, 0.7), (7, 7, 1)),
            ('oxford_flowers', 3.0, 700, (0.4, 0.6), (7, 7, 1)),
            ('oxford_pets', 2.0, 800, (0.7, 0.3), (7, 7, 1)),
            ('stanford_cars', 1.0, 500, (0.6, 0.4), (10, 7, 1)),
            ('sun397', 1.0, 800, (0.7, 0.3), (10, 7, 1)),
            ('ucf101', 2.0, 700, (0.3, 0.7), (10, 7, 1.5)),
        )
    },
}
published = [dict(protocols=['few-shot'])]
