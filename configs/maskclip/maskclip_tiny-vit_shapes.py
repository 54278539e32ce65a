# MaskCLIP on drawn scenes with the bundled tiny-vit: nothing is trained, no checkpoint is needed.
#   python tools/test.py configs/maskclip/maskclip_tiny-vit_shapes.py
# Beside mIoU it prints that of both refinements and of random directions instead of the text.
_base_ = [
    '../_base_/models/maskclip_tiny-vit.py',
    '../_base_/datasets/shapes.py',
    '../_base_/default_runtime.py',
]

background = dict(type='vlm_dense.NamedBackground', names=['empty background', 'background', 'texture', 'empty scene'])
denoising, smoothing = (
    dict(type='vlm_dense.PromptDenoising', thresh=0.5),
    dict(type='vlm_dense.KeySmoothing', thresh=1.0),
)
model = dict(
    decode_head=dict(refinements=[background]),
    variants=dict(
        denoised=dict(refinements=[background, denoising]),
        smoothed=dict(refinements=[background, smoothing]),
        denoised_smoothed=dict(refinements=[background, denoising, smoothing]),
        random_text=dict(random_text=0),
    ),
)
test_evaluator = [
    dict(type='IoUMetric', iou_metrics=['mIoU']),
    *(
        dict(type='vlm_dense.VariantIoU', name=name, iou_metrics=['mIoU'])
        for name in ('denoised', 'smoothed', 'denoised_smoothed', 'random_text')
    ),
]
