# SC-CLIP on drawn scenes with the bundled tiny-vit: nothing is trained, no checkpoint is needed.
#   python tools/test.py configs/sc_clip/sc_clip_tiny-vit_shapes.py
_base_ = [
    '../_base_/models/ovss_tiny-vit.py',
    '../_base_/datasets/shapes.py',
    '../_base_/default_runtime.py',
]

model = dict(
    backbone=dict(dense_attention=dict(type='vlm_dense.SCCLIPAttention', pre=2, post=1, multi=(1, 3))),
)
