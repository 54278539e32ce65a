# Tip-Adapter-F on ImageNet, 16 shots, RN50. Epoch, alpha and beta are chosen on validation images, where the official
# code takes the test images: tip_adapter_f_on-test_imagenet.py. It also augments anew in each epoch.
_base_ = [
    './_base_/models/clip_classifier_rn50.py',
    './_base_/datasets/imagenet_tip-adapter_features.py',
    './_base_/schedules/tip_adapter_f_20e.py',
    './_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates='imagenet7', separators='_'),
    head=dict(
        type='vlm_dense.TipAdapterF',
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
    ),
    checkpoint=dict(save_best='top1', rule='greater'),
)
