# An ordinary segmentor of mmseg, DeepLabV3+ on ResNet-50, trained on masks that another model wrote and tested on the
# real ones:
#   python tools/pseudo_label.py maskclip_vit-b16 none data/camvid/images/train data/camvid/pseudo_labels/train \
#       --classes sky building pole road pavement tree sign fence car pedestrian bicyclist --thresh 0.5
#   python tools/train.py configs/maskclip/pseudo_label_camvid.py
# For other images change data_root, classes and folders; any other segmentor of mmseg takes the place of the model.
_base_ = ['../_base_/datasets/camvid.py', '../_base_/default_runtime.py']

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255,
        size=(256, 256),
    ),
    backbone=dict(
        type='ResNetV1c',
        depth=50,
        out_indices=(0, 1, 2, 3),
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=norm_cfg,
        style='pytorch',
        contract_dilation=True,
        init_cfg=dict(type='Pretrained', checkpoint='open-mmlab://resnet50_v1c'),
    ),
    decode_head=dict(
        type='DepthwiseSeparableASPPHead',
        in_channels=2048,
        in_index=3,
        channels=512,
        dilations=(1, 12, 24, 36),
        c1_in_channels=256,
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=11,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(seg_map_path='pseudo_labels/train'),
        ann_file='pseudo_labels/train/labelled.txt',  # images without mask are left out
    )
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
)
max_iters = 4000
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, by_epoch=False, end=max_iters)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=1000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(checkpoint=dict(interval=1000))
