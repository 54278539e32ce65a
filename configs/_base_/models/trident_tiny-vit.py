# Trident on the bundled tiny-vit, which is second backbone and source of the correlation as well.
_base_ = './ovss_tiny-vit.py'

model = dict(
    type='vlm_dense.Trident',
    sam=dict(type='vlm_dense.TowerCorrelation', arch='tiny-vit', pretrained='bundled', side=384),
    cos_fac=6.0,  # the tower's attention is not as local as SAM's, so only places with nearly equal values exchange
    backbone=dict(
        dense_attention=dict(
            type='vlm_dense.TridentAttention',
            proxy=dict(type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled'),
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        )
    ),
    test_cfg=dict(_delete_=True, mode='slide', crop_size=(64, 64), stride=(32, 32), keep_logits=False),
)
