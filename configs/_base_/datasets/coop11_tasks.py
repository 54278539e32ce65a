# The 11 sets of CoOp as tasks of one run, 20 images of each class. Some class names occur in two sets.
_base_ = './imagenet_few-shot.py'

tasks = dict(
    imagenet=1000,
    caltech101=100,
    oxford_pets=37,
    stanford_cars=196,
    oxford_flowers=102,
    food101=101,
    fgvc_aircraft=100,
    sun397=397,
    dtd=47,
    eurosat=10,
    ucf101=101,
)
_names = list(tasks)
_joined = dict(_delete_=True, type='vlm_dense.TaskDataset', tasks=_names, same_names=True)
_set = dict(type='vlm_dense.ImageSetDataset', data_root={{_base_.data_root}})
_few = dict(_set, shots=20, seed=1)
_train = dict(_few, split='train', pipeline={{_base_.train_pipeline}})
_val = dict(_few, split='val', pipeline={{_base_.test_pipeline}})
_test = dict(_set, split='test', pipeline={{_base_.test_pipeline}})
train_dataloader = dict(dataset=dict(_joined, datasets=[dict(_train, name=name) for name in _names]))
val_dataloader = dict(dataset=dict(_joined, datasets=[dict(_val, name=name) for name in _names]))
test_dataloader = dict(dataset=dict(_joined, datasets=[dict(_test, name=name) for name in _names]))
val_evaluator = dict(_delete_=True, type='vlm_dense.TaskAccuracy')
test_evaluator = val_evaluator
targets = dict(_delete_=True)  # none
