# NACLIP, CLIP ViT-B/16, PASCAL VOC, 20 classes and the background. Published: 64.07 mIoU.
_base_ = [
    '../_base_/models/naclip_vit-b16.py',
    '../_base_/datasets/voc21_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc21_background',
    postprocess=[
        dict(type='vlm_dense.OriginalSize'),
        dict(type='vlm_dense.PAMR', iterations=10, dilations=(8, 16)),
        dict(type='vlm_dense.Probabilities', scale=40.0),
        dict(type='vlm_dense.Aliases'),
        dict(type='vlm_dense.ProbabilityThreshold', thresh=0.1),
        dict(type='vlm_dense.SumToOne'),
    ],
    test_cfg=dict(_delete_=True, mode='whole', keep_logits=False),
)
