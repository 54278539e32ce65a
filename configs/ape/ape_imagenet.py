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
