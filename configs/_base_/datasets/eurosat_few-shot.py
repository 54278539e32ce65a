# EuroSAT, 16 images of each class.
_base_ = './imagenet_few-shot.py'

template = 'a centered satellite photo of {}.'
train_dataloader = dict(dataset=dict(name='eurosat'))
val_dataloader = dict(dataset=dict(name='eurosat'))
test_dataloader = dict(dataset=dict(name='eurosat'))
