# An ordinary RetinaNet on drawn scenes with a neck that joins the cosines of pixels and class names to the last stage.
_base_ = '../clip_baselines/clip_retinanet_shapes.py'

model = dict(
    neck=dict(
        _delete_=True,
        type='vlm_dense.TextGuidedNeck',
        in_channels=[96, 192, 384, 768],
        class_names=['circle', 'square', 'triangle', 'star', 'cross', 'ring', 'crescent', 'heart'],
        text_encoder=dict(type='vlm_dense.TextTower', arch='tiny-rn', pretrained='bundled'),
        neck={{_base_.model.neck}},
    )
)
