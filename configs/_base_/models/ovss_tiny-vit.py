# As ovss_vit-b16.py, on the bundled tiny-vit and small images, each in one piece.
_base_ = './ovss_vit-b16.py'

model = dict(
    backbone=dict(arch='tiny-vit', pretrained='bundled'),
    text_encoder=dict(arch='tiny-vit', pretrained='bundled'),
    text_prompt=dict(templates=['a photo of a {}.']),
    test_cfg=dict(_delete_=True, mode='whole', keep_logits=False),
)
