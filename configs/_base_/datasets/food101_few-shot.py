# Food101, 16 images of each class.
_base_ = './imagenet_few-shot.py'

template = 'a photo of {}, a type of food.'
train_dataloader = dict(dataset=dict(name='food101'))
val_dataloader = dict(dataset=dict(name='food101'))
test_dataloader = dict(dataset=dict(name='food101'))
