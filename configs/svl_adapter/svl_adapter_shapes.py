# SVL-Adapter, 16 shots, on drawn scenes by night; alpha is searched on validation images. First train the encoder:
#   python tools/train.py configs/svl_adapter/svl_adapter_ssl_shapes.py
_base_ = [
    '../_base_/models/clip_classifier_tiny-vit.py',
    '../_base_/datasets/shapes_few-shot.py',
    '../_base_/schedules/svl_adapter_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    head=dict(
        type='vlm_dense.SVLAdapter',
        encoder='test_efficientnet_gn',
        pretrained='work_dirs/svl_adapter_ssl_shapes/epoch_8.pth',
        alpha='search',
    ),
)
train_dataloader = dict(dataset=dict(dataset=dict(pipeline={{_base_.test_pipeline}})))
default_hooks = dict(
    prepare=dict(type='vlm_dense.PrepareHook', data=dict(search=dict(dataset={{_base_.val_dataloader.dataset}})))
)
