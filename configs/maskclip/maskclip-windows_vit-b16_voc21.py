# MaskCLIP in its successors' windows, CLIP ViT-B/16, PASCAL VOC, 20 classes and the background. Published: 43.4 mIoU.
_base_ = [
    '../_base_/models/maskclip-windows_vit-b16.py',
    '../_base_/datasets/voc21_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc21_background',
    decision=dict(scale=65.0, prob_thresh=0.1, area_thresh=0.1),
)
