# SC-CLIP, CLIP ViT-B/16, COCO's 80 things and the background. Published: 37.7 mIoU.
_base_ = [
    '../_base_/models/sc_clip_vit-b16.py',
    '../_base_/datasets/coco-object_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-object81',
    postprocess=[
        dict(type='vlm_dense.OriginalSize', at_once=True),
        dict(type='vlm_dense.Probabilities', scale=55.0),
        dict(type='vlm_dense.Aliases'),
        dict(type='vlm_dense.ProbabilityThreshold', thresh=0.35),
    ],
)
