# SED on CLIP's ConvNeXt-L, trained on COCO-Stuff, 171 classes.
_base_ = [
    '../_base_/models/sed_convnext-l.py',
    '../_base_/datasets/coco-stuff171_crop-768.py',
    '../_base_/schedules/sed_80k.py',
    '../_base_/default_runtime.py',
]
