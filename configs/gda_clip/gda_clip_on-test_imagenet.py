# GDA-CLIP as the official code reports it on ImageNet: alpha is searched on the images it is tested on.
_base_ = './gda_clip_imagenet.py'

default_hooks = dict(
    prepare=dict(data=dict(search=dict(_delete_=True, dataset={{_base_.test_dataloader.dataset}}, batch_size=256)))
)
