# MaskCLIP+ with DeepLabV3+ instead of DeepLabV2.
_base_ = './maskclip_plus_rn50.py'

norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    decode_head=dict(
        decode_module=dict(
            _delete_=True,
            type='DepthwiseSeparableASPPHead',
            in_channels=2048,
            in_index=3,
            dilations=(1, 12, 24, 36),
            c1_in_channels=256,
            c1_channels=48,
            norm_cfg=norm_cfg,
        )
    )
)
