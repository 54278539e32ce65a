# UCF101, 16 images of each class.
_base_ = './imagenet_few-shot.py'

template = 'a photo of a person doing {}.'
train_dataloader = dict(dataset=dict(name='ucf101'))
val_dataloader = dict(dataset=dict(name='ucf101'))
test_dataloader = dict(dataset=dict(name='ucf101'))
