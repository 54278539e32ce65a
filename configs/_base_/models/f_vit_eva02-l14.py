# F-ViT on EVA-02-CLIP's ViT-L/14 at 336 px: strides are those of patches of 14 px.
_base_ = './f_vit_eva02-b16.py'

clip = dict(arch='EVA02-L-14-336', pretrained='merged2b_s6b_b61k')
model = dict(
    data_preprocessor=dict(pad_size_divisor=896),
    backbone=dict(out_indices=[6, 10, 14, 23], **clip),
    text_encoder=clip,
    rpn_head=dict(anchor_generator=dict(strides=[3.5, 7, 14, 28, 56])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[3.5, 7, 14, 28]),
        bbox_head=dict(fc_out_channels=768),
    ),
)
