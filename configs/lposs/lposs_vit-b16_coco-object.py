# LPOSS, CLIP ViT-B/16, COCO's 80 things and the background. Published: 33.4 mIoU.
_base_ = [
    '../_base_/models/lposs_vit-b16.py',
    '../_base_/datasets/coco-object_448.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-object81',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first', keep_all=[0])]),  # the background
)
