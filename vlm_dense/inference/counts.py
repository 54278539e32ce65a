"""Parameters and operations of a model."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def count_parameters(model: nn.Module) -> dict[str, dict[str, int]]:
    """Top-level module -> number of parameters 'trained' and 'frozen'; what is shared counts once."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: dict(trained=0, frozen=0))
    for name, parameter in model.named_parameters():
        counts[name.split('.')[0]]['trained' if parameter.requires_grad else 'frozen'] += parameter.numel()
    return dict(counts)


def count_flops(model: nn.Module, height: int, width: int) -> int:
    """Floating-point operations (2 a multiply-add) of one forward pass of an image, text included."""
    model.eval()
    image = torch.zeros(1, 3, height, width)
    kwargs = {}
    if hasattr(model, 'roi_head'):  # a two-stage detector cuts its proposals at the image's border
        from mmdet.structures import DetDataSample

        kwargs['data_samples'] = [DetDataSample(metainfo=dict(img_shape=(height, width), scale_factor=(1.0, 1.0)))]
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(image, mode='tensor', **kwargs)
    return counter.get_total_flops()


def without_weights(cfg):
    """The config with no weights to load: counts do not depend on them."""
    if isinstance(cfg, dict):
        return {k: None if k in ('pretrained', 'init_cfg') else without_weights(v) for k, v in cfg.items()}
    return [without_weights(v) for v in cfg] if isinstance(cfg, (list, tuple)) else cfg
