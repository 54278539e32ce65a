# DenseCLIP on drawn scenes with LASP's prompt instead of its own; the text-to-text loss works there too.
_base_ = [
    '../_base_/models/denseclip_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

model = dict(
    text_encoder=dict(context_length=24),
    text_prompt=dict(_delete_=True, type='vlm_dense.LASPPrompt', words='a photo of a', templates='lasp', weight=5.0),
)
