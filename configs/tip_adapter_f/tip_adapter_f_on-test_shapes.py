# Tip-Adapter-F as the official code chooses: epoch, alpha and beta on the images it is tested on.
_base_ = './tip_adapter_f_shapes.py'

val_dataloader = dict(
    dataset=dict(_delete_=True, type='vlm_dense.FeatureDataset', dataset={{_base_.test_dataloader.dataset.dataset}})
)
default_hooks = dict(prepare=dict(data=dict(search=dict(_delete_=True, dataset={{_base_.test_dataloader.dataset}}))))
