# ELEVATER's 20 sets as tasks of one run, 20 images of each class. Some class names occur in two sets. VOC 2007 shows
# several classes an image: its figure is mAP, ELEVATER has that of 11 points. Hateful Memes: accuracy, not ROC AUC.
_base_ = './image_set_tasks.py'

tasks = {
    'hateful-memes': 2,
    'cifar-10': 10,
    'mnist': 10,
    'oxford-flowers': 102,
    'oxford-pets': 37,
    'resisc45': 45,
    'country211': 211,
    'food-101': 101,
    'stanford-cars': 196,
    'caltech-101': 102,
    'dtd': 47,
    'voc2007': 20,
    'cifar-100': 100,
    'fgvc-aircraft': 100,
    'patch-camelyon': 2,
    'rendered-sst2': 2,
    'gtsrb': 43,
    'eurosat': 10,
    'fer-2013': 7,
    'kitti-distance': 4,
}
_named = dict(dataset=dict(tasks=list(tasks), datasets=dict(name='elevater-{task}')))
_few = dict(dataset=dict(tasks=list(tasks), datasets=dict(name='elevater-{task}', shots=20)))
train_dataloader, val_dataloader, test_dataloader = _few, _few, _named
