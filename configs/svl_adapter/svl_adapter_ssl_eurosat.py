# First stage of SVL-Adapter on EuroSAT: SimCLR on all training images without labels, from torchvision's
# first ImageNet weights. The paper takes the validation images too, and ImageNet's normalisation where this is CLIP's.
_base_ = './svl_adapter_ssl_shapes.py'

data_root = 'data'
batch_size = 256
max_epochs = 200
model = dict(encoder='resnet50.tv_in1k', pretrained=True, hidden_channels=512, out_channels=128)
views = [
    dict(type='RandomResizedCrop', size=112, scale=(0.2, 1.0)),
    dict(type='RandomHorizontalFlip'),
    dict(
        type='RandomApply',
        p=0.8,
        transforms=[dict(type='ColorJitter', brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1)],
    ),
    dict(type='RandomGrayscale', p=0.2),
]
train_dataloader = dict(
    batch_size=batch_size,
    num_workers=8,
    persistent_workers=True,
    dataset=dict(
        _delete_=True,
        type='vlm_dense.ImageSetDataset',
        name='eurosat',
        data_root=data_root,
        split='train',
        pipeline=[
            dict(type='vlm_dense.LoadImage'),
            dict(type='vlm_dense.RandomViews', transforms=views),
            dict(type='vlm_dense.PackClsInputs'),
        ],
    ),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='SGD', lr=0.03 * batch_size / 256, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(type='CosineAnnealingLR', T_max=max_epochs, by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True)
]
train_cfg = dict(max_epochs=max_epochs)
