# TaskRes with 8 or 16 shots; 100 epochs with fewer, a rate of 2e-4 on ImageNet.
_base_ = './clip_adapter_200e.py'

optim_wrapper = dict(optimizer=dict(_delete_=True, type='Adam', lr={{_base_.lr}}, weight_decay=5e-4))
