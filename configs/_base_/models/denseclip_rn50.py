# DenseCLIP on CLIP's RN50: what the text branch adds to the baseline.
_base_ = './clip_fpn_rn50.py'

model = dict(
    type='vlm_dense.DenseCLIP',
    backbone=dict(attnpool=True, input_resolution=512, with_cp='light'),
    text_encoder=dict(type='vlm_dense.TextTower', arch='RN50', pretrained='openai', context_length=13, chunk_size=64),
    text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=8, name_length=5),
    context_decoder=dict(type='vlm_dense.ContextDecoder', width=256, heads=4, layers=3, dropout=0.1),
    identity_head=dict(
        type='vlm_dense.IdentityHead',
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
    ),
    score_concat_index=3,
    tau=0.07,
    neck=dict(in_channels=None),  # those of the backbone, and one channel a class
)
