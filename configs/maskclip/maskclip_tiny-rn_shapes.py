# MaskCLIP on drawn scenes with the bundled tiny-rn: nothing is trained, no checkpoint is needed.
#   python tools/test.py configs/maskclip/maskclip_tiny-rn_shapes.py
# Beside mIoU it prints that of both refinements and of random directions in place of the text.
_base_ = [
    '../_base_/models/maskclip_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/default_runtime.py',
]

model = dict(
    decode_head=dict(background=dict(index=0, names=['empty background', 'background', 'texture', 'empty scene'])),
    variants=dict(
        denoised=dict(pd_thresh=0.5),
        smoothed=dict(ks_thresh=1.0),
        denoised_smoothed=dict(pd_thresh=0.5, ks_thresh=1.0),
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
