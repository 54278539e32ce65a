# Trident on real road scenes with the bundled tiny-vit, which has only ever seen drawn
# shapes: a test of the machinery, not of the masks.
_base_ = [
    '../_base_/models/trident_tiny-vit.py',
    '../_base_/datasets/camvid.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='camvid11')
