# MaskCLIP+ on drawn scenes without any label; crescents and hearts are named, and in no image of the training.
# What trained open-vocabulary models are compared with, on the images that they are trained on.
_base_ = './maskclip_plus_shapes.py'

unseen = [7, 8]
model = dict(compare_teacher=False)
train_dataloader = dict(dataset=dict(held_out=['crescent', 'heart']))
val_evaluator = dict(_delete_=True, type='vlm_dense.SeenUnseenIoUMetric', unseen=unseen, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
