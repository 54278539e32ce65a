# DenseCLIP with RetinaNet on the bundled tiny-rn: what the text branch adds to the baseline.
_base_ = './clip_retinanet_tiny-rn.py'

model = dict(
    type='vlm_dense.DenseCLIPSingleStage',
    backbone=dict(attnpool=True, input_resolution=96, attnpool_positions='crop'),
    text_encoder=dict(type='vlm_dense.TextTower', arch='tiny-rn', pretrained='bundled', context_length=13),
    text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=8, name_length=5),
    context_decoder=dict(type='vlm_dense.ContextDecoder', width=64, heads=4, layers=2, dropout=0.1),
    score_concat_index=3,
    tau=0.07,
    neck=dict(in_channels=None),  # those of the backbone, and one channel a class
)
