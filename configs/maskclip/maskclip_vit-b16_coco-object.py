# MaskCLIP, CLIP ViT-B/16, COCO's 80 things and the background, which is found by a list of names.
_base_ = [
    '../_base_/models/maskclip_vit-b16.py',
    '../_base_/datasets/coco-object.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-object81',
    decode_head=dict(refinements=[]),
)
