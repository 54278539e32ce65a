# imagenet_few-shot_features.py without augmentation.
_base_ = './imagenet_few-shot_features.py'

train_dataloader = dict(dataset=dict(copies=1, dataset=dict(pipeline={{_base_.test_pipeline}})))
