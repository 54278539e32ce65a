# ov-coco_lsj-1024.py with squares of 896 px.
_base_ = './ov-coco_lsj-1024.py'

size = (896, 896)
train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = size
train_pipeline[4].crop_size = size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = size
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
