# SC-CLIP, CLIP ViT-B/16, COCO-Stuff, 171 classes. Published: 26.6 mIoU.
_base_ = [
    '../_base_/models/sc_clip_vit-b16.py',
    '../_base_/datasets/coco-stuff171_336.py',
    '../_base_/default_runtime.py',
]

model = dict(
    class_names='coco-stuff171',
    decode_head=dict(refinements=[dict(type='vlm_dense.Aliases', keep='first')]),
)
