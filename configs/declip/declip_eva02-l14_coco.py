# DeCLIP on EVA-02-CLIP's ViT-L/14 for images of 336 px with DINOv2's ViT-L/14, image patches of COCO.
_base_ = './declip_eva02-b16_coco.py'

model = dict(
    backbone=dict(arch='EVA02-L-14-336', pretrained='merged2b_s6b_b61k'),
    text_encoder=dict(arch='EVA02-L-14-336', pretrained='merged2b_s6b_b61k'),
    proxy=dict(model='vit_large_patch14_reg4_dinov2.lvd142m'),
)
sizes = dict(image_size=560, crop_size=336, proxy_size=560)  # 40 x 40 patches of both
train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='vlm_dense.GridBoxes', max_split=6, max_boxes=20),
    dict(type='vlm_dense.PackRegions', **sizes),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
default_hooks = dict(mixed_tower=dict(alpha=0.95))
