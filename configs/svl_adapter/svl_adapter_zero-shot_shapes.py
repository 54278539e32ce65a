# SVL-Adapter without labels: trained on those of zero-shot CLIP, mixed by CLIP's confidence on the test images.
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_unlabelled.py',
    '../_base_/schedules/svl_adapter_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    head=dict(
        type='vlm_dense.SVLAdapter',
        encoder='test_efficientnet_gn',
        pretrained='work_dirs/svl_adapter_ssl_shapes/epoch_8.pth',
        alpha='confidence',
    ),
)
train_dataloader = dict(dataset=dict(fill=True, dataset=dict(pipeline={{_base_.test_pipeline}})))
default_hooks = dict(
    prepare=dict(type='vlm_dense.PrepareHook', data=dict(unlabelled=dict(dataset={{_base_.test_dataloader.dataset}})))
)
