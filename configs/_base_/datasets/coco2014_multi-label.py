# COCO 2014, 80 classes, an image may show several; squares of 448 px as in DualCoOp.
data_root = 'data'
image_set = dict(type='vlm_dense.ImageSetDataset', name='coco2014', data_root=data_root)
template = 'a photo of a {}.'
size = 448
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(
        type='vlm_dense.TorchvisionTransforms',
        transforms=[dict(type='Resize', size=(size, size)), dict(type='RandAugment')],
    ),
    dict(type='vlm_dense.PackClsInputs', multi_label=True),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='vlm_dense.TorchvisionTransforms', transforms=[dict(type='Resize', size=(size, size))]),
    dict(type='vlm_dense.PackClsInputs', multi_label=True),
]

train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(split='train', pipeline=train_pipeline, **image_set),
)
# no validation: there are no images for it, and nothing is chosen on test images
val_dataloader = None
val_evaluator = None
test_dataloader = dict(
    batch_size=50,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(split='test', pipeline=test_pipeline, **image_set),
)
test_evaluator = dict(type='vlm_dense.MultiLabelMetric')
