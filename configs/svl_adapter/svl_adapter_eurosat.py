# SVL-Adapter on EuroSAT, 16 shots, RN50; alpha is searched on validation images. First train the encoder:
#   python tools/train.py configs/svl_adapter/svl_adapter_ssl_eurosat.py --data-root DIR
_base_ = [
    '../_base_/models/clip_classifier_rn50.py',
    '../_base_/datasets/eurosat_resized.py',
    '../_base_/schedules/svl_adapter_50e.py',
    '../_base_/classification_runtime.py',
]

model = dict(
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a centered satellite photo of {}.'], separators='_'),
    head=dict(
        type='vlm_dense.SVLAdapter',
        encoder='resnet50',
        pretrained='work_dirs/svl_adapter_ssl_eurosat/epoch_200.pth',
        alpha='search',
    ),
)
default_hooks = dict(
    prepare=dict(type='vlm_dense.PrepareHook', data=dict(search=dict(dataset={{_base_.val_dataloader.dataset}})))
)
published = [dict(protocols=['few-shot'])]
