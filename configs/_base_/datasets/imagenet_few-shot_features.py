# imagenet_few-shot.py with features of the frozen image tower instead of images, kept in work_dirs/features.
# Epochs see 10 augmented copies of each training image in turn, where the papers draw a new one in each epoch.
_base_ = './imagenet_few-shot.py'

reading = dict(type='vlm_dense.FeatureDataset', batch_size=128, num_workers=8)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    batch_sampler=None,  # the last batch of an epoch is smaller
    dataset=dict(_delete_=True, copies=10, dataset={{_base_.train_dataloader.dataset}}, **reading),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(_delete_=True, dataset={{_base_.val_dataloader.dataset}}, **reading),
)
test_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(_delete_=True, dataset={{_base_.test_dataloader.dataset}}, **reading),
)
