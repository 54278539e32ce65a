# CALIP as the official code reports it: the betas are searched on the images it is tested on.
_base_ = './calip_imagenet.py'

default_hooks = dict(
    prepare=dict(
        data=dict(search=dict(_delete_=True, dataset={{_base_.test_dataloader.dataset}}, batch_size=256, num_workers=8))
    )
)
