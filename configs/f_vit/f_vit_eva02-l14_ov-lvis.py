# F-ViT, EVA-02-CLIP ViT-L/14 at 336 px, OV-LVIS: 866 base and 337 novel classes. Published: mask APr 24.2; with
# CLIPSelf's weights 34.9.
_base_ = './f_vit_eva02-b16_ov-lvis.py'

clip = dict(arch='EVA02-L-14-336', pretrained='merged2b_s6b_b61k')
size = (896, 896)
model = dict(
    data_preprocessor=dict(pad_size_divisor=896),
    backbone=dict(out_indices=[6, 10, 14, 23], **clip),
    text_encoder=clip,
    rpn_head=dict(anchor_generator=dict(strides=[3.5, 7, 14, 28, 56])),
    roi_head=dict(
        beta=0.4,
        bbox_roi_extractor=dict(featmap_strides=[3.5, 7, 14, 28]),
        bbox_head=dict(fc_out_channels=768),
        mask_roi_extractor=dict(featmap_strides=[3.5, 7, 14, 28]),
    ),
)
train_pipeline = _base_.train_pipeline
train_pipeline[3].scale = size
train_pipeline[4].crop_size = size
test_pipeline = _base_.test_pipeline
test_pipeline[1].scale = size
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
