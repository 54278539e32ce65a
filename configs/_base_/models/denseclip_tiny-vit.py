# DenseCLIP on the bundled tiny-vit. The score map has stride 8 and joins the second stage.
_base_ = './denseclip_tiny-rn.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='vlm_dense.CLIPViT',
        arch='tiny-vit',
        pretrained='bundled',
        input_resolution=96,
        pyramid=True,
        head=True,
    ),
    text_encoder=dict(arch='tiny-vit'),
    score_concat_index=1,
    neck=dict(in_channels=None),  # those of the backbone, and one channel a class
)
