# Mask-Adapter on the FC-CLIP of CLIP's ConvNeXt-L.
_base_ = './fc_clip_convnext-l.py'

model = dict(
    type='vlm_dense.MaskAdapterFCCLIP',
    mask_adapter=dict(mask_channels=16, width=768, num_maps=16),
    stage='mixed',
    mask_threshold=0.5,
    iou_threshold=0.7,
    alpha=0.7,
    beta=0.9,
)
