# SoftCPT's General-10: the sets of CoOp without ImageNet as tasks of one run, 16 images of each class.
_base_ = './image_set_tasks.py'

tasks = dict(
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
train_dataloader, val_dataloader, test_dataloader = _named, _named, _named
