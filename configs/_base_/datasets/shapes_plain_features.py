# shapes_few-shot_features.py without augmentation.
_base_ = './shapes_few-shot_features.py'

train_pipeline = [dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackClsInputs')]
train_dataloader = dict(dataset=dict(copies=1, dataset=dict(dataset=dict(pipeline=train_pipeline))))
