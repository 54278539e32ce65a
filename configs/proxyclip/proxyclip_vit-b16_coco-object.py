# ProxyCLIP, CLIP ViT-B/16, COCO's 80 things and the background. Published: 37.5 mIoU.
_base_ = [
    '../_base_/models/proxyclip_vit-b16.py',
    '../_base_/datasets/coco-object_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-object81',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first', keep_all=[0])]),  # the background
    decision=dict(prob_thresh=0.25),
)
