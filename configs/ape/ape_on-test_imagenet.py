# APE as the official code reports it on ImageNet: alpha, beta and gamma are searched on the images it is tested on.
_base_ = './ape_imagenet.py'

default_hooks = dict(
    prepare=dict(data=dict(search=dict(_delete_=True, dataset={{_base_.test_dataloader.dataset}}, batch_size=256)))
)
