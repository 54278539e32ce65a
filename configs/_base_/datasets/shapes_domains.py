# Four tasks on drawn scenes, naming the shape in each of four domains; 16 images of each class. Batches mix them.
# The fifth domain, 'night', is the target. The tasks have the same class names: losses have to stay inside a task.
_base_ = './shapes_few-shot.py'

tasks = dict(source=8, sketch=8, inverted=8, noisy=8)  # name of the task, number of classes
_scene = dict(type='vlm_dense.ShapesDataset', size=64, num_objects=(1, 1), label='shape', domain='{task}')
_few = dict(type='vlm_dense.FewShotDataset', shots=16, seed=1)
_train = dict(_scene, split='train', num_scenes=1000, pipeline={{_base_.train_pipeline}})
_val = dict(_scene, split='val', num_scenes=200, pipeline={{_base_.test_pipeline}})
_test = dict(_scene, split='test', num_scenes=500, pipeline={{_base_.test_pipeline}})
_joined = dict(_delete_=True, type='vlm_dense.TaskDataset', tasks=list(tasks), same_names=True)
train_dataloader = dict(dataset=dict(_joined, datasets=dict(_few, dataset=_train)))
val_dataloader = dict(dataset=dict(_joined, datasets=dict(_few, at_most=4, dataset=_val)))
test_dataloader = dict(dataset=dict(_joined, datasets=_test))
val_evaluator = dict(_delete_=True, type='vlm_dense.TaskAccuracy')
test_evaluator = val_evaluator
source = targets = domains = single_tasks = dict(_delete_=True)  # none
