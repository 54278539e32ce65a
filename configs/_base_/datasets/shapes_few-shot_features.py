# shapes_few-shot.py with features of the frozen image tower instead of images, kept in work_dirs/features.
# Each training image is seen flipped and not as 4 copies draw it.
_base_ = './shapes_few-shot.py'

train_dataloader = dict(
    dataset=dict(_delete_=True, type='vlm_dense.FeatureDataset', copies=4, dataset={{_base_.train_dataloader.dataset}})
)
val_dataloader = dict(
    dataset=dict(_delete_=True, type='vlm_dense.FeatureDataset', dataset={{_base_.val_dataloader.dataset}})
)
test_dataloader = dict(
    dataset=dict(_delete_=True, type='vlm_dense.FeatureDataset', dataset={{_base_.test_dataloader.dataset}})
)
