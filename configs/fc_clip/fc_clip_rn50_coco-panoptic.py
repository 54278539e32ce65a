# FC-CLIP on CLIP's RN50, trained on COCO panoptic, 133 classes.
_base_ = [
    '../_base_/models/fc_clip_rn50.py',
    '../_base_/datasets/coco_panoptic_lsj-1024.py',
    '../_base_/schedules/fc_clip.py',
    '../_base_/default_runtime.py',
]

data_preprocessor = dict(
    _delete_=True,
    type='mmdet.DetDataPreprocessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321579, 70.32316305],
    bgr_to_rgb=True,
    pad_size_divisor=32,
    pad_mask=True,
    mask_pad_value=0,
    pad_seg=True,
    seg_pad_value=255,
    batch_augments=[
        dict(
            type='mmdet.BatchFixedSizePad',
            size=_base_.image_size,
            img_pad_value=0,
            pad_mask=True,
            mask_pad_value=0,
            pad_seg=True,
            seg_pad_value=255,
        )
    ],
)
model = dict(
    data_preprocessor=data_preprocessor,
    decode_head=dict(num_things=_base_.num_things),
    panoptic=dict(things=_base_.num_things, object_mask_thr=0.0, iou_thr=0.8, top_k=100),
)
