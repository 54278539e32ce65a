# DenseCLIP's text branch on an ImageNet ResNet-50 of torchvision: a new attention pool, and the text tower of CLIP
# ViT-B/16. Images are normalised as for the backbone.
_base_ = './denseclip_rn50.py'

model = dict(
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]),
    backbone=dict(
        _delete_=True,
        type='vlm_dense.PooledBackbone',
        backbone=dict(
            type='vlm_dense.TorchvisionBackbone',
            model='resnet50',
            nodes=['layer1', 'layer2', 'layer3', 'layer4'],
            weights='IMAGENET1K_V1',
        ),
        channels=[256, 512, 1024, 2048],
        embed_dim=512,
        input_resolution=512,
        heads=32,
    ),
    text_encoder=dict(arch='ViT-B-16'),
)
