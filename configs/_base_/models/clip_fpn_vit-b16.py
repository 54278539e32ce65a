# Semantic FPN on CLIP's ViT-B/16: the baseline without text.
_base_ = './clip_fpn_rn50.py'

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        _delete_=True,
        type='vlm_dense.CLIPViT',
        arch='ViT-B-16-quickgelu',
        pretrained='openai',
        input_resolution=640,
        out_indices=[3, 5, 7, 11],
        drop_path_rate=0.1,
        pyramid=True,
        norm_cfg=norm_cfg,
        # the published models were trained with the class embedding added twice
        double_class_embedding=True,
    ),
    neck=dict(in_channels=[768, 768, 768, 768]),
    test_cfg=dict(crop_size=(640, 640), stride=(426, 426)),
)
