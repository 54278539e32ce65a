# DenseCLIP on drawn scenes with 4 samples of a variational prompt instead of its own.
_base_ = [
    '../_base_/models/denseclip_tiny-rn.py',
    '../_base_/datasets/shapes.py',
    '../_base_/schedules/tiny.py',
    '../_base_/default_runtime.py',
]

model = dict(
    text_encoder=dict(context_length=24),
    text_prompt=dict(_delete_=True, type='vlm_dense.VariationalPrompt', words='a photo of a', num_samples=4),
)
