# SoftCPT's Plant-6: six sets of plants as tasks of one run, 16 images of each class.
_base_ = './image_set_tasks.py'

tasks = dict(
    fruit_vegetable=36,
    kaggle_flower=5,
    kaggle_mushroom=9,
    kaggle_vegetable=15,
    plant_seedling=12,
    plant_village=39,
)
_named = dict(dataset=dict(tasks=list(tasks)))
train_dataloader, val_dataloader, test_dataloader = _named, _named, _named
