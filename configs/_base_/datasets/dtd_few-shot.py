# DTD, 16 images of each class.
_base_ = './imagenet_few-shot.py'

template = '{} texture.'
train_dataloader = dict(dataset=dict(name='dtd'))
val_dataloader = dict(dataset=dict(name='dtd'))
test_dataloader = dict(dataset=dict(name='dtd'))
