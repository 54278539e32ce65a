# KgCoOp, 16 shots, on drawn scenes by night.
_base_ = '../coop/coop_shapes.py'

model = dict(
    text_prompt=dict(
        _delete_=True, type='vlm_dense.KgCoOpPrompt', words='a photo of a', template='a photo of a {}.', weight=8.0
    )
)
