# SUN397, 16 images of each class.
_base_ = './imagenet_few-shot.py'

template = 'a photo of a {}.'
train_dataloader = dict(dataset=dict(name='sun397'))
val_dataloader = dict(dataset=dict(name='sun397'))
test_dataloader = dict(dataset=dict(name='sun397'))
