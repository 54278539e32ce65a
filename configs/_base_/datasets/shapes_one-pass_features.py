# shapes_few-shot_features.py with one copy of each training image, and as many validation images as shots.
_base_ = './shapes_few-shot_features.py'

train_dataloader = dict(dataset=dict(copies=1))
val_dataloader = dict(dataset=dict(dataset=dict(at_most=16)))
