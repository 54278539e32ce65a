# Caltech101, 16 images of each class.
_base_ = './imagenet_few-shot.py'

template = 'a photo of a {}.'
train_dataloader = dict(dataset=dict(name='caltech101'))
val_dataloader = dict(dataset=dict(name='caltech101'))
test_dataloader = dict(dataset=dict(name='caltech101'))
