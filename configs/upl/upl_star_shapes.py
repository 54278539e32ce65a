# UPL*: the labels are those of two CLIPs together.
_base_ = './upl_shapes.py'

tiny_rn = dict(
    pipeline={{_base_.labelling}},
    model=dict(
        type='vlm_dense.CLIPClassifier',
        data_preprocessor={{_base_.preprocessing}},
        backbone=dict(type='vlm_dense.CLIPResNet', arch='tiny-rn', pretrained='bundled', attnpool=True),
        text_encoder=dict(type='vlm_dense.TextTower', arch='tiny-rn', pretrained='bundled'),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    ),
)
train_dataloader = dict(dataset=dict(labellers=[{{_base_.tiny_vit}}, tiny_rn]))
