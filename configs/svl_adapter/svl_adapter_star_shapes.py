# SVL-Adapter*: alpha follows from CLIP's confidence on the test images, without their labels.
_base_ = './svl_adapter_shapes.py'

model = dict(head=dict(alpha='confidence'))
default_hooks = dict(
    prepare=dict(data=dict(_delete_=True, unlabelled=dict(dataset={{_base_.test_dataloader.dataset}})))
)
