# Drawn scenes of which two names are held out: training shows and names 6 shapes, validation and test have all 8.
_base_ = './shapes.py'

seen = ['circle', 'square', 'triangle', 'star', 'cross', 'ring']
unseen = [7, 8]  # crescent and heart
train_dataloader = dict(dataset=dict(classes=seen))
val_evaluator = dict(type='vlm_dense.SeenUnseenIoUMetric', unseen=unseen, iou_metrics=['mIoU'])
test_evaluator = val_evaluator
