# imagenet_tip-adapter_features.py with one augmented copy of each training image.
_base_ = './imagenet_tip-adapter_features.py'

train_dataloader = dict(dataset=dict(copies=1))
