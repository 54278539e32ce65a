# Two tasks on drawn scenes by night, naming the shape and naming the colour; 16 images of each class. Batches mix them.
_base_ = './shapes_few-shot.py'

tasks = dict(shape=8, colour=8)  # name of the task, number of classes
_night = dict(type='vlm_dense.ShapesDataset', size=64, num_objects=(1, 1), domain='night', label='{task}')
_few = dict(type='vlm_dense.FewShotDataset', shots=16, seed=1)
_train = dict(_night, split='train', num_scenes=1000, pipeline={{_base_.train_pipeline}})
_val = dict(_night, split='val', num_scenes=200, pipeline={{_base_.test_pipeline}})
_test = dict(_night, split='test', num_scenes=1000, pipeline={{_base_.test_pipeline}})
_joined = dict(_delete_=True, type='vlm_dense.TaskDataset', tasks=list(tasks))
train_dataloader = dict(dataset=dict(_joined, datasets=dict(_few, dataset=_train)))
val_dataloader = dict(dataset=dict(_joined, datasets=dict(_few, at_most=4, dataset=_val)))
test_dataloader = dict(dataset=dict(_joined, datasets=_test))
val_evaluator = dict(_delete_=True, type='vlm_dense.TaskAccuracy')
test_evaluator = val_evaluator
source = targets = domains = single_tasks = dict(_delete_=True)  # none
