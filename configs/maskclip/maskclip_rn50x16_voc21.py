# MaskCLIP, CLIP RN50x16, PASCAL VOC, 20 classes and the background, which is found by a list of names.
_base_ = [
    '../_base_/models/maskclip_rn50x16.py',
    '../_base_/datasets/voc21.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc21',
    decode_head=dict(background=dict(index=0, names='background_voc')),
)
