# MaskCLIP in its successors' windows, CLIP ViT-B/16, PASCAL Context, 59 classes and the
# background. Published: 23.2 mIoU.
_base_ = [
    '../_base_/models/maskclip-windows_vit-b16.py',
    '../_base_/datasets/context60_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='context60',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
    postprocess=[
        dict(type='vlm_dense.OriginalSize', at_once=True),
        dict(type='vlm_dense.Probabilities', scale=50.0),
        dict(type='vlm_dense.Aliases'),
        dict(type='vlm_dense.ProbabilityThreshold', thresh=0.1),
    ],
)
