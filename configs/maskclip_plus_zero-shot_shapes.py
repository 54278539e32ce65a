# Zero-shot MaskCLIP+ on drawn scenes: crescents and hearts have no labels. MaskCLIP labels them at first, then the
# network itself.
#   python tools/train.py configs/maskclip_plus_zero-shot_shapes.py
# maskclip_plus_seen-only_shapes.py trains the same network on the same labels without MaskCLIP.
_base_ = './maskclip_plus_shapes.py'

unseen = [7, 8]
model = dict(
    clip_unlabeled_cats=unseen,
    unlabeled_cats=unseen,
    start_clip_guided=(1, 400),
    start_self_train=(401, -1),
)
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='vlm_dense.DrawScene'),
            dict(type='vlm_dense.SuppressLabels', classes=unseen),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PackSegInputs'),
        ],
    )
)
val_evaluator = [
    dict(type='vlm_dense.SeenUnseenIoUMetric', unseen=unseen, iou_metrics=['mIoU']),
    dict(type='vlm_dense.VariantIoU', name='teacher', iou_metrics=['mIoU']),
]
test_evaluator = val_evaluator
