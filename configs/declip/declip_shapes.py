# DeCLIP on drawn scenes with the bundled tiny-vit, its own plain map as proxy: grids of regions, no label is read.
# Accuracy of boxes and masks before and after, and the tower, tower.pth in the work dir.
#   python tools/train.py configs/declip/declip_shapes.py
_base_ = [
    '../_base_/models/declip_tiny-vit.py',
    '../_base_/datasets/shapes_regions.py',
    '../_base_/schedules/clipself_tiny.py',
    '../_base_/default_runtime.py',
]
default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=100),
    mixed_tower=dict(type='vlm_dense.MixedTowerHook', alpha=0.7),
)
