# FC-CLIP on CLIP's RN50, trained on COCO panoptic, 133 classes.
_base_ = [
    '../_base_/models/fc_clip_rn50.py',
    '../_base_/datasets/coco_panoptic_lsj-1024.py',
    '../_base_/schedules/fc_clip.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=_base_.panoptic_preprocessor,
    decode_head=dict(num_things=_base_.num_things),
    panoptic=dict(things=_base_.num_things, object_mask_thr=0.0, iou_thr=0.8, top_k=100),
)
