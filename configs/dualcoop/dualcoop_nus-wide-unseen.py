# DualCoOp on NUS-WIDE, trained on 925 tags of users and tested on the 81 concepts: half of the rate on COCO, and
# in each step 100 of the tags, drawn again.
_base_ = './dualcoop_coco-unseen.py'

lr = 0.001
optim_wrapper = dict(optimizer=dict(lr=lr))
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=50, by_epoch=True, begin=1, end=50),
]
train_dataloader = dict(dataset=dict(name='nus-wide-tags'))
test_dataloader = dict(dataset=dict(name='nus-wide-tags'))
