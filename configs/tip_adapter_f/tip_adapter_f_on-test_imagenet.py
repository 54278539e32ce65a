# Tip-Adapter-F as the official code chooses: epoch, alpha and beta on the images it is tested on.
_base_ = './tip_adapter_f_imagenet.py'

val_dataloader = {{_base_.test_dataloader}}
default_hooks = dict(
    prepare=dict(data=dict(search=dict(_delete_=True, dataset={{_base_.test_dataloader.dataset}}, batch_size=256)))
)
