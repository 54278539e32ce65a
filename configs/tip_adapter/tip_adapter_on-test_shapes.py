# Tip-Adapter with alpha and beta searched on the images it is tested on, as the official code does on ImageNet.
_base_ = './tip_adapter_shapes.py'

default_hooks = dict(prepare=dict(data=dict(search=dict(_delete_=True, dataset={{_base_.test_dataloader.dataset}}))))
