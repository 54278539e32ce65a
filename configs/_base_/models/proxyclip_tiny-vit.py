# ProxyCLIP on the bundled tiny-vit.
_base_ = './ovss_tiny-vit.py'

model = dict(
    backbone=dict(
        dense_attention=dict(
            type='vlm_dense.ProxyCLIPAttention',
            # the tower itself: its last map is that of the plain last block; any backbone can take its place
            proxy=dict(type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled'),
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        )
    ),
)
