# MAFT+ on the bundled tiny-rn, with a small Mask2Former.
_base_ = './fc_clip_tiny-rn.py'

model = dict(
    type='vlm_dense.MAFTPlus', data_preprocessor=dict(size=(128, 128)), cdt=dict(heads=8), ensemble_on_valid_mask=False
)
