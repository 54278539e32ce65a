# The 11 sets of CoOp as tasks of one run, 20 images of each class. Some class names occur in two sets.
_base_ = './image_set_tasks.py'

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
_named = dict(dataset=dict(tasks=list(tasks)))
_few = dict(dataset=dict(tasks=list(tasks), datasets=dict(shots=20)))
train_dataloader, val_dataloader, test_dataloader = _few, _few, _named
