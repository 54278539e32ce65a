# SED on CLIP's ConvNeXt-B, trained on COCO-Stuff, 171 classes.
_base_ = [
    '../_base_/models/sed_convnext-b.py',
    '../_base_/datasets/coco-stuff171_crop-768.py',
    '../_base_/schedules/sed_80k.py',
    '../_base_/default_runtime.py',
]
