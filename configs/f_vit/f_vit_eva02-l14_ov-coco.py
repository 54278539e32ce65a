# F-ViT, EVA-02-CLIP ViT-L/14, OV-COCO: 48 base and 17 novel classes. Published: novel
# AP50 24.7; with CLIPSelf's weights 44.3.
_base_ = [
    '../_base_/models/f_vit_eva02-l14.py',
    '../_base_/datasets/ov-coco_lsj-896.py',
    '../_base_/schedules/f_vit_3e.py',
    '../_base_/detection_runtime.py',
]
