# CALIP with the betas searched on the images it is tested on, as the official code does.
_base_ = './calip_shapes.py'

default_hooks = dict(prepare=dict(data=dict(search=dict(_delete_=True, dataset={{_base_.test_dataloader.dataset}}))))
