"""Heads of small segmentors, as several tests build them."""

from __future__ import annotations


def fpn_head(num_classes: int, channels: int) -> dict:
    """mmseg's FPN head on four maps of strides 4 to 32."""
    return dict(
        type='mmseg.FPNHead',
        in_channels=[channels] * 4,
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=channels,
        num_classes=num_classes,
        norm_cfg=dict(type='BN'),
        align_corners=False,
        loss_decode=dict(type='mmseg.CrossEntropyLoss'),
    )
