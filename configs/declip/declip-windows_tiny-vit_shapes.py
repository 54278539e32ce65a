# The last block of DeCLIP in the protocol of MaskCLIP's successors on drawn scenes with the bundled tiny-vit: give it
# the tower of declip_shapes.py as model.backbone.pretrained.
#   python tools/test.py configs/declip/declip-windows_tiny-vit_shapes.py
_base_ = [
    '../_base_/models/ovss_tiny-vit.py',
    '../_base_/datasets/shapes.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='shapes9',
    backbone=dict(pos_mode='bicubic', dense_attention=dict(type='vlm_dense.DeCLIPAttention', mode='qq')),
)
