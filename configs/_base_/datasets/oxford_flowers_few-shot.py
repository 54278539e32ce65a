# Flowers102, 16 images of each class.
_base_ = './imagenet_few-shot.py'

template = 'a photo of a {}, a type of flower.'
train_dataloader = dict(dataset=dict(name='oxford_flowers'))
val_dataloader = dict(dataset=dict(name='oxford_flowers'))
test_dataloader = dict(dataset=dict(name='oxford_flowers'))
