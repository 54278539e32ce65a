# UPL*: the labels are those of eight CLIPs together, each at the size it was trained with.
_base_ = './upl_imagenet.py'

towers = dict(
    RN50=('CLIPResNet', 224),
    RN101=('CLIPResNet', 224),
    RN50x4=('CLIPResNet', 288),
    RN50x16=('CLIPResNet', 384),
    RN50x64=('CLIPResNet', 448),
)
towers['ViT-B-32'] = towers['ViT-B-16'] = towers['ViT-L-14'] = ('CLIPViT', 224)
labellers = []
for arch, (kind, side) in towers.items():
    pooled = dict(attnpool=True) if kind == 'CLIPResNet' else dict(head=True)
    transforms = [dict(type='Resize', size=side, interpolation='bicubic'), dict(type='CenterCrop', size=side)]
    labellers.append(
        dict(
            pipeline=[
                dict(type='vlm_dense.LoadImage'),
                dict(type='vlm_dense.TorchvisionTransforms', transforms=transforms),
                dict(type='vlm_dense.PackClsInputs'),
            ],
            model=dict(
                type='vlm_dense.CLIPClassifier',
                data_preprocessor={{_base_.preprocessing}},
                backbone=dict(type=f'vlm_dense.{kind}', arch=arch, pretrained='openai', **pooled),
                text_encoder=dict(type='vlm_dense.TextTower', arch=arch, pretrained='openai'),
                text_prompt=dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.'], separators='_'),
            ),
        )
    )
del arch, kind, side, pooled, transforms, towers
train_dataloader = dict(dataset=dict(labellers=labellers))
