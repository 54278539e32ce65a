# Trident on drawn scenes with the bundled tiny-vit: nothing is trained, no checkpoint is needed.
#   python tools/test.py configs/trident/trident_tiny-vit_shapes.py
_base_ = [
    '../_base_/models/trident_tiny-vit.py',
    '../_base_/datasets/shapes.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='shapes9')
