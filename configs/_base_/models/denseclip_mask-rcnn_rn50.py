# DenseCLIP with Mask R-CNN on CLIP's RN50: what the text branch adds to the baseline.
_base_ = './clip_mask-rcnn_rn50.py'

model = dict(
    type='vlm_dense.DenseCLIPTwoStage',
    # positions for images up to 1344 px, of which the top left part is taken; 'interpolate' has no such limit
    backbone=dict(attnpool=True, input_resolution=1344, attnpool_positions='crop', with_cp='light'),
    text_encoder=dict(type='vlm_dense.TextTower', arch='RN50', pretrained='openai', context_length=13, chunk_size=64),
    text_prompt=dict(type='vlm_dense.DenseCLIPPrompt', num_contexts=8, name_length=5),
    context_decoder=dict(type='vlm_dense.ContextDecoder', width=256, heads=4, layers=3, dropout=0.1),
    score_concat_index=3,
    tau=0.07,
    # 2048 channels of the last stage and one a class
    neck=dict(in_channels=None),  # those of the backbone, and one channel a class
)
