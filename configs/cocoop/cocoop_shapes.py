# CoCoOp, 16 shots, on drawn scenes by night, in batches of 32; the paper trains 10 epochs of single images.
_base_ = '../coop/coop_shapes.py'

model = dict(text_prompt=dict(_delete_=True, type='vlm_dense.CoCoOpPrompt', words='a photo of a'))
