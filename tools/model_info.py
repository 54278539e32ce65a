"""Count parameters and operations of a model: python tools/model_info.py configs/denseclip_shapes.py"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence

import vlm_dense
from vlm_dense.cli import arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Count parameters and operations of the model of a config.')
    arguments.add_config(parser)
    parser.add_argument('--shape', type=int, nargs=2, default=(512, 512), metavar=('H', 'W'), help='image size')
    arguments.add_config_arguments(parser)
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and what is wrong with the arguments, before torch is imported

import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

vlm_dense.setup()  # before others import mmseg

from vlm_dense.engine.configs.checks import check_values
from vlm_dense.engine.runner import launch
from vlm_dense.errors import ConfigError


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


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parse_args(argv)
    with launch.user_errors():
        if min(args.shape) < 1:
            raise ConfigError(f'--shape must be two positive numbers, found {" ".join(map(str, args.shape))}.')
        cfg = launch.load_config(args.config, args.cfg_options)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        check_values(cfg)
        launch.fill_class_names(cfg)
        model = MODELS.build(ConfigDict(without_weights(cfg.model.to_dict())))
    counts = count_parameters(model)
    total = {k: sum(c[k] for c in counts.values()) for k in ('trained', 'frozen')}
    print(f'{"module":24}{"parameters":>14}{"trained":>14}{"frozen":>14}')
    for name, c in [*counts.items(), ('total', total)]:
        print(f'{name:24}{c["trained"] + c["frozen"]:14,}{c["trained"]:14,}{c["frozen"]:14,}')
    with launch.user_errors():
        try:
            flops = count_flops(model, *args.shape)
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0].rstrip('.')
            raise ConfigError(
                f'{args.config} takes no image of {args.shape[0]} x {args.shape[1]} px: {why}. Try another --shape.'
            ) from error
    print(f'{flops / 1e9:,.3f} GFLOPs for a {args.shape[0]}x{args.shape[1]} image (a multiply-add is 2)')


if __name__ == '__main__':
    main()
