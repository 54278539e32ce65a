# Mask-Adapter on FC-CLIP of CLIP's ConvNeXt-L, trained on COCO panoptic, the warm-up on masks of the data.
#   python tools/train.py configs/mask_adapter/mask_adapter_fc-clip_convnext-l_warmup_coco-panoptic.py
# with --cfg-options load_from=CHECKPOINT: the released FC-CLIP.
_base_ = [
    '../_base_/models/mask_adapter_fc-clip_convnext-l.py',
    '../_base_/datasets/coco_panoptic_lsj-768.py',
    '../_base_/schedules/mask_adapter_warmup.py',
    '../_base_/default_runtime.py',
]

model = dict(
    data_preprocessor=_base_.panoptic_preprocessor,
    decode_head=dict(num_things=_base_.num_things),
    stage='warmup',
    panoptic=dict(things=_base_.num_things, object_mask_thr=0.0, iou_thr=0.8, top_k=100),
)
train_dataloader = dict(batch_size=1)
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='mmdet.Resize', scale=(896, 896), keep_ratio=True),
    dict(type='vlm_dense.LoadPanopticAnnotations'),
    dict(
        type='mmdet.PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
