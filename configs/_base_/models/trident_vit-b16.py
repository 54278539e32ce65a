# Trident on CLIP's ViT-B/16, DINO's ViT-B/16 and SAM's ViT-B.
_base_ = './ovss_vit-b16.py'

model = dict(
    type='vlm_dense.Trident',
    sam=dict(type='vlm_dense.SAMEncoder', model='samvit_base_patch16.sa1b', pretrained=True),
    backbone=dict(
        pos_mode='dino',
        dense_attention=dict(
            type='vlm_dense.TridentAttention',
            proxy=dict(type='vlm_dense.ProxyViT', model='vit_base_patch16_224.dino', pretrained=True),
        ),
    ),
    test_cfg=dict(crop_size=(336, 336), stride=(224, 224)),
)
