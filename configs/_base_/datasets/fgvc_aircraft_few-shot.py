# FGVCAircraft, 16 images of each class.
_base_ = './imagenet_few-shot.py'

template = 'a photo of a {}, a type of aircraft.'
train_dataloader = dict(dataset=dict(name='fgvc_aircraft'))
val_dataloader = dict(dataset=dict(name='fgvc_aircraft'))
test_dataloader = dict(dataset=dict(name='fgvc_aircraft'))
