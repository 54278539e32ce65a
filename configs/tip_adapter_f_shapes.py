# Tip-Adapter-F, 16 shots, on drawn scenes by night. Epoch, alpha and beta are chosen on validation images.
_base_ = [
    './_base_/models/clip_classifier_tiny-vit.py',
    './_base_/datasets/shapes_few-shot_features.py',
    './_base_/schedules/tip_adapter_f_20e.py',
    './_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    head=dict(type='vlm_dense.TipAdapterF', shots=16, passes=4, alpha=1.17, beta=1.0),
)
default_hooks = dict(
    prepare=dict(
        type='vlm_dense.PrepareHook',
        data=dict(
            support=dict(dataset={{_base_.train_dataloader.dataset}}),
            search=dict(dataset={{_base_.val_dataloader.dataset}}),
        ),
    ),
    checkpoint=dict(save_best='top1', rule='greater'),
)
