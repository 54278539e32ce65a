# Mask-Adapter on the MAFT+ of CLIP's ConvNeXt-L.
_base_ = './maft_plus_convnext-l.py'

model = dict(
    type='vlm_dense.MaskAdapterMAFTPlus',
    mask_adapter=dict(mask_channels=16, width=768, num_maps=16),
    stage='mixed',
    mask_threshold=0.4,
    iou_threshold=0.7,
    alpha=0.8,
    beta=1.0,
)
