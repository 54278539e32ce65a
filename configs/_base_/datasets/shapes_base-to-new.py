# Training and test on the first 4 of 8 shapes. Test on the others: --cfg-options test_dataloader.dataset.classes=new
_base_ = './shapes_few-shot.py'

train_dataloader = dict(dataset=dict(dataset=dict(classes='base')))
val_dataloader = dict(dataset=dict(dataset=dict(classes='base')))
test_dataloader = dict(dataset=dict(classes='base'))
