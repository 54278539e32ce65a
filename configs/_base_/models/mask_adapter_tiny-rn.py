# Mask-Adapter on the FC-CLIP of the bundled tiny-rn, small.
_base_ = './fc_clip_tiny-rn.py'

model = dict(
    type='vlm_dense.MaskAdapterFCCLIP',
    mask_adapter=dict(mask_channels=16, width=64, num_maps=4),
    ensemble_on_valid_mask=False,
    num_gt_masks=6,
    num_pred_masks=4,
    iou_threshold=0.7,
    alpha=0.7,
    beta=0.9,
)
