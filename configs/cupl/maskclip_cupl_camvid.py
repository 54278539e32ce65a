# MaskCLIP on road scenes with the sentences of CuPL instead of templates; nothing is trained.
#   python tools/test.py configs/cupl/maskclip_cupl_camvid.py
_base_ = [
    '../_base_/models/maskclip_vit-b16.py',
    '../_base_/datasets/camvid.py',
    '../_base_/default_runtime.py',
]

model = dict(text_prompt=dict(type='vlm_dense.CuPLPrompt', sentences='camvid'))
