# shapes_few-shot.py without labels: of 1000 drawn scenes by night, those 16 of each class that zero-shot CLIP, the
# bundled tiny-vit, is surest of, under its labels.
_base_ = './shapes_few-shot.py'

labelling = [dict(type='vlm_dense.DrawScene'), dict(type='vlm_dense.PackClsInputs')]
preprocessing = dict(
    type='vlm_dense.ClsDataPreprocessor',
    mean=[122.7709383, 116.7460125, 104.09373615],
    std=[68.5005327, 66.6321375, 70.32316305],
    bgr_to_rgb=True,
)
tiny_vit = dict(
    pipeline=labelling,
    model=dict(
        type='vlm_dense.CLIPClassifier',
        data_preprocessor=preprocessing,
        backbone=dict(type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled', head=True),
        text_encoder=dict(type='vlm_dense.TextTower', arch='tiny-vit', pretrained='bundled'),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt', separators='_'),
    ),
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='vlm_dense.PseudoLabelDataset',
        top_k=16,
        labellers=[tiny_vit],
        dataset={{_base_.train_dataloader.dataset.dataset}},
    )
)
