# A head of class names on the finest map of the pyramid of the bundled tiny-rn.
_base_ = './clip_fpn_tiny-rn.py'

model = dict(
    decode_head=dict(
        _delete_=True,
        type='vlm_dense.PixelTextHead',
        in_channels=64,
        in_index=0,
        class_names=['background', 'circle', 'square', 'triangle', 'star', 'cross', 'ring', 'crescent', 'heart'],
        text_encoder=dict(type='vlm_dense.TextTower', arch='tiny-rn', pretrained='bundled'),
        text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
        loss_decode=dict(type='CrossEntropyLoss'),
    ),
)
