# StanfordCars, 16 images of each class.
_base_ = './imagenet_few-shot.py'

template = 'a photo of a {}.'
train_dataloader = dict(dataset=dict(name='stanford_cars'))
val_dataloader = dict(dataset=dict(name='stanford_cars'))
test_dataloader = dict(dataset=dict(name='stanford_cars'))
