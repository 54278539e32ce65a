# As ovss_vit-b16.py, on the bundled tiny-vit and pictures of drawn scenes, each in one piece.
_base_ = './ovss_vit-b16.py'

model = dict(
    backbone=dict(arch='tiny-vit', pretrained='bundled'),
    text_encoder=dict(arch='tiny-vit', pretrained='bundled'),
    text_prompt=dict(templates=['a photo of a {}.']),
    decode_head=dict(background=dict(index=0, names=['empty background', 'background', 'texture', 'empty scene'])),
    test_cfg=dict(_delete_=True, mode='whole', keep_logits=False),
)
