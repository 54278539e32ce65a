# NACLIP, CLIP ViT-B/16, COCO's 80 things and the background. Published: 36.19 mIoU.
_base_ = [
    '../_base_/models/naclip_vit-b16.py',
    '../_base_/datasets/coco-object_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-object81',
    decision=dict(prob_thresh=0.1),
)
