# MAFT+ on CLIP's ConvNeXt-L, trained on COCO-Stuff, 171 classes.
_base_ = [
    '../_base_/models/maft_plus_convnext-l.py',
    '../_base_/datasets/coco-stuff171_800.py',
    '../_base_/schedules/maft_plus.py',
    '../_base_/default_runtime.py',
]

data_preprocessor = dict(size_divisor=32)
model = dict(data_preprocessor=data_preprocessor)
