# DeCLIP on the bundled tiny-vit; the proxy is the tower itself, its map that of the plain last block. Any backbone can
# take its place.
_base_ = './clipself_tiny-vit.py'

model = dict(
    type='vlm_dense.DeCLIP',
    proxy=dict(type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled', pos_mode='bicubic'),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
