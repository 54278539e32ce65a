# OxfordPets, 16 images of each class.
_base_ = './imagenet_few-shot.py'

template = 'a photo of a {}, a type of pet.'
train_dataloader = dict(dataset=dict(name='oxford_pets'))
val_dataloader = dict(dataset=dict(name='oxford_pets'))
test_dataloader = dict(dataset=dict(name='oxford_pets'))
