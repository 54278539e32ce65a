# Tip-Adapter on ImageNet, 16 shots, RN50; nothing is trained. alpha and beta are searched on validation images, where
# the official code takes the test images: tip_adapter_on-test_imagenet.py.
#   python tools/test.py configs/tip_adapter/tip_adapter_imagenet.py
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/imagenet_tip-adapter_features.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet7', separators='_'),
    head=dict(
        type='vlm_dense.TipAdapter',
        shots=16,
        passes=10,
        alpha=1.17,
        beta=1.0,
        search_scale=(7, 3),
        search_step=(200, 20),
    ),
)
default_hooks = dict(
    prepare=dict(
        type='vlm_dense.PrepareHook',
        data=dict(
            support=dict(dataset={{_base_.train_dataloader.dataset}}, batch_size=256),
            search=dict(dataset={{_base_.val_dataloader.dataset}}, batch_size=256),
        ),
    )
)
test_cfg = dict(type='TestLoop')
