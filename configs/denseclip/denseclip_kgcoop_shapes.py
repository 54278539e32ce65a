# DenseCLIP on drawn scenes with KgCoOp's prompt instead of its own.
_base_ = './denseclip_shapes.py'

model = dict(
    text_encoder=dict(context_length=24),
    text_prompt=dict(_delete_=True, type='vlm_dense.KgCoOpPrompt', words='a photo of a', weight=8.0),
)
