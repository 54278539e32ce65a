# CorrCLIP on the bundled tiny-vit. The regions of drawn images are those of one colour.
_base_ = './ovss_tiny-vit.py'

model = dict(
    type='vlm_dense.CorrCLIP',
    regions=dict(type='vlm_dense.ColourRegions'),
    backbone=dict(
        dense_attention=dict(
            type='vlm_dense.CorrCLIPAttention',
            middle=1,
            # the tower itself: its last map is that of the plain last block; any backbone can take its place
            proxy=dict(type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled'),
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        )
    ),
)
