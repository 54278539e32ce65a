# Low-rank updates in the frozen tower of an ordinary segmentor, without text, on drawn scenes.
_base_ = '../vpt/vpt_fpn_shapes.py'

model = dict(backbone=dict(image_prompt=dict(_delete_=True, type='vlm_dense.LoRA', rank=4)))
