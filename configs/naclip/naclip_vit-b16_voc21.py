# NACLIP, CLIP ViT-B/16, PASCAL VOC, 20 classes and the background. Published: 64.07 mIoU.
_base_ = [
    '../_base_/models/naclip_vit-b16.py',
    '../_base_/datasets/voc21_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='voc21_background',
    decision=dict(prob_thresh=0.1),
    test_cfg=dict(_delete_=True, mode='whole', keep_logits=False),
)
