# DualCoOp on PASCAL VOC 2007, RN101 at 448 px, vectors of each class: half of the rate on COCO.
_base_ = './dualcoop_coco.py'

lr = 0.001
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=50, by_epoch=True, begin=1, end=50),
]
train_dataloader = dict(dataset=dict(name='voc2007'))
test_dataloader = dict(dataset=dict(name='voc2007'))
