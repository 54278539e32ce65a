# LPOSS on the bundled tiny-vit. Its features are all similar, so that the published graph joins everything with the
# background: gamma and sigma, chosen on training scenes, join only what is nearly equal and near.
_base_ = './ovss_tiny-vit.py'

model = dict(
    type='vlm_dense.LPOSS',
    backbone=dict(pos_mode='bicubic', remainder='pad'),
    # the tower itself: its last map is that of the plain last block; any backbone of patches can take its place
    proxy=dict(type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled'),
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    k=30,
    gamma=30.0,
    sigma=0.1,
    postprocess=[],
)
