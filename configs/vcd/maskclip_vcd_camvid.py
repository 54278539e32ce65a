# MaskCLIP on road scenes, each pixel by the descriptors of the classes; nothing is trained.
#   python tools/test.py configs/vcd/maskclip_vcd_camvid.py
_base_ = [
    '../_base_/models/maskclip_vit-b16.py',
    '../_base_/datasets/camvid.py',
    '../_base_/default_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.VCDPrompt', descriptors='camvid'))
