# MaskCLIP on drawn scenes with KgCoOp's prompt, trained with masks while the towers stay frozen.
_base_ = './maskclip_prompt_shapes.py'

model = dict(text_prompt=dict(_delete_=True, type='vlm_dense.KgCoOpPrompt', words='a photo of a', weight=8.0))
