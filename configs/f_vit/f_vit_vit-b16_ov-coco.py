# F-ViT, OpenAI's ViT-B/16, OV-COCO: 48 base and 17 novel classes. No published figure.
_base_ = [
    '../_base_/models/f_vit_vit-b16.py',
    '../_base_/datasets/ov-coco_lsj-640.py',
    '../_base_/schedules/f_vit_3e.py',
    '../_base_/detection_runtime.py',
]
