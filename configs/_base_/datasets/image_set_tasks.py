# Image sets as tasks of one run, 16 images of each class; a config on top of this one names the `tasks`, of which
# '{task}' is each. Some class names occur in two sets.
_base_ = './imagenet_few-shot.py'

_joined = dict(_delete_=True, type='vlm_dense.TaskDataset', same_names=True)
_set = dict(type='vlm_dense.ImageSetDataset', name='{task}', data_root={{_base_.data_root}})
_few = dict(_set, shots=16, seed=1)
_train = dict(_few, split='train', pipeline={{_base_.train_pipeline}})
_val = dict(_few, split='val', pipeline={{_base_.test_pipeline}})
_test = dict(_set, split='test', pipeline={{_base_.test_pipeline}})
train_dataloader = dict(dataset=dict(_joined, datasets=_train))
val_dataloader = dict(dataset=dict(_joined, datasets=_val))
test_dataloader = dict(dataset=dict(_joined, datasets=_test))
val_evaluator = dict(_delete_=True, type='vlm_dense.TaskAccuracy')
test_evaluator = val_evaluator
targets = dict(_delete_=True)  # none
