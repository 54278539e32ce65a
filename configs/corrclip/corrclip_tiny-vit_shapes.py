# CorrCLIP on drawn scenes with the bundled tiny-vit: nothing is trained, no checkpoint is needed.
#   python tools/test.py configs/corrclip/corrclip_tiny-vit_shapes.py
_base_ = [
    '../_base_/models/corrclip_tiny-vit.py',
    '../_base_/datasets/shapes.py',
    '../_base_/default_runtime.py',
]

model = dict(class_names='shapes9')
