# ELEVATER's 20 sets as tasks of one run, 20 images of each class. Some class names occur in two sets. VOC 2007 shows
# several classes an image: its figure is mAP, ELEVATER has that of 11 points. Hateful Memes: accuracy, not ROC AUC.
_base_ = './imagenet_few-shot.py'

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
_names = list(tasks)
_joined = dict(_delete_=True, type='vlm_dense.TaskDataset', tasks=_names, same_names=True)
_set = dict(type='vlm_dense.ImageSetDataset', data_root={{_base_.data_root}})
_few = dict(_set, shots=20, seed=1)
_crop = dict(type='RandomResizedCrop', size=224, scale=(0.08, 1.0), interpolation='bicubic')
_flip = dict(type='RandomHorizontalFlip')
_resize = dict(type='Resize', size=224, interpolation='bicubic')
_centre = dict(type='CenterCrop', size=224)
_of_task = dict(voc2007=dict(multi_label=True))


def _datasets(transforms, **kwargs):
    return [
        dict(
            kwargs,
            name=f'elevater-{name}',
            pipeline=[
                dict(type='vlm_dense.LoadImage'),
                dict(type='vlm_dense.TorchvisionTransforms', transforms=transforms),
                dict(type='vlm_dense.PackClsInputs', **_of_task.get(name, {})),
            ],
        )
        for name in _names
    ]


train_dataloader = dict(dataset=dict(_joined, datasets=_datasets([_crop, _flip], split='train', **_few)))
val_dataloader = dict(dataset=dict(_joined, datasets=_datasets([_resize, _centre], split='val', **_few)))
test_dataloader = dict(dataset=dict(_joined, datasets=_datasets([_resize, _centre], split='test', **_set)))
val_evaluator = dict(_delete_=True, type='vlm_dense.TaskAccuracy')
test_evaluator = val_evaluator
targets = dict(_delete_=True)  # none
