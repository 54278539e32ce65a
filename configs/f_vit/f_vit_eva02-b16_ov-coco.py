# F-ViT, EVA-02-CLIP ViT-B/16, OV-COCO: 48 base and 17 novel classes. Published: novel
# AP50 17.5; with CLIPSelf's weights 37.6.
_base_ = [
    '../_base_/models/f_vit_eva02-b16.py',
    '../_base_/datasets/ov-coco_lsj-640.py',
    '../_base_/schedules/f_vit_3e.py',
    '../_base_/detection_runtime.py',
]
