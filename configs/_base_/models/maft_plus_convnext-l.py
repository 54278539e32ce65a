# MAFT+ on CLIP's ConvNeXt-L, trained by LAION.
_base_ = './fc_clip_convnext-l.py'

model = dict(
    type='vlm_dense.MAFTPlus',
    decode_head=dict(num_queries=100),
    cdt=dict(heads=8),
    rc_weight=0.1,
)
