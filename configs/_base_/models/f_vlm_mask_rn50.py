# F-VLM on CLIP's RN50 with masks, and the weights of both classifications for LVIS.
_base_ = './f_vlm_rn50.py'

model = dict(
    roi_head=dict(
        alpha=0.35,
        beta=0.65,
        mask_roi_extractor=dict(
            type='vlm_dense.CornerRoIExtractor',
            output_size=14,
            out_channels=256,
            featmap_strides={{_base_.strides}},
        ),
        mask_head=dict(
            type='FCNMaskHead',
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            norm_cfg={{_base_.norm}},
            loss_mask=dict(type='CrossEntropyLoss', use_mask=True, loss_weight=1.0),
        ),
    ),
    train_cfg=dict(rcnn=dict(mask_size=28)),
    test_cfg=dict(rcnn=dict(mask_thr_binary=0.5)),
)
