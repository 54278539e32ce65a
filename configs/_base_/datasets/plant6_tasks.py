# SoftCPT's Plant-6: six sets of plants as tasks of one run, 16 images of each class.
_base_ = './imagenet_few-shot.py'

tasks = dict(
    fruit_vegetable=36,
    kaggle_flower=5,
    kaggle_mushroom=9,
    kaggle_vegetable=15,
    plant_seedling=12,
    plant_village=39,
)
_names = list(tasks)
_joined = dict(_delete_=True, type='vlm_dense.TaskDataset', tasks=_names, same_names=True)
_set = dict(type='vlm_dense.ImageSetDataset', data_root={{_base_.data_root}})
_few = dict(_set, shots=16, seed=1)
_train = dict(_few, split='train', pipeline={{_base_.train_pipeline}})
_val = dict(_few, split='val', pipeline={{_base_.test_pipeline}})
_test = dict(_set, split='test', pipeline={{_base_.test_pipeline}})
train_dataloader = dict(dataset=dict(_joined, datasets=[dict(_train, name=name) for name in _names]))
val_dataloader = dict(dataset=dict(_joined, datasets=[dict(_val, name=name) for name in _names]))
test_dataloader = dict(dataset=dict(_joined, datasets=[dict(_test, name=name) for name in _names]))
val_evaluator = dict(_delete_=True, type='vlm_dense.TaskAccuracy')
test_evaluator = val_evaluator
targets = dict(_delete_=True)  # none
