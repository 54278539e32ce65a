# SVL-Adapter*: alpha follows from CLIP's confidence on the test images, without their labels. The confidence is
# that of features that are not normalised, as in the official code.
_base_ = './svl_adapter_eurosat.py'

model = dict(head=dict(alpha='confidence', raw_confidence=True))
default_hooks = dict(
    prepare=dict(data=dict(_delete_=True, unlabelled=dict(dataset={{_base_.test_dataloader.dataset}}, batch_size=100)))
)
