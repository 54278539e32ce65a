# CLIPSelf on EVA-02-CLIP's ViT-L/14 for images of 336 px, with image patches of COCO.
_base_ = './clipself_eva02-b16_coco.py'

model = dict(
    backbone=dict(arch='EVA02-L-14-336', pretrained='merged2b_s6b_b61k'),
    text_encoder=dict(arch='EVA02-L-14-336', pretrained='merged2b_s6b_b61k'),
)
sizes = dict(image_size=896, crop_size=336)
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='vlm_dense.GridBoxes', max_split=6, max_boxes=20),
    dict(type='vlm_dense.PackRegions', **sizes),
]
test_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='vlm_dense.PackRegions', **sizes),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
default_hooks = dict(mixed_tower=dict(alpha=0.95))
