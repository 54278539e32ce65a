# CLIPSelf on EVA-02-CLIP's ViT-B/16 with region proposals: boxes of a COCO file with one category, 'object'.
_base_ = './clipself_eva02-b16_coco.py'

train_pipeline = [
    dict(type='vlm_dense.LoadImage'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='vlm_dense.ProposalBoxes', max_boxes=20, min_size=8, max_size=1024, crop_scale=1.5),
    dict(type='vlm_dense.PackRegions', image_size=1024, crop_size=224),
]
train_dataloader = dict(
    dataset=dict(
        ann_file='annotations/proposals_train2017.json', metainfo=dict(classes=('object',)), pipeline=train_pipeline
    )
)
