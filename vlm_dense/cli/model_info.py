"""Count parameters and operations of a model.

vlm-dense info configs/denseclip_shapes.py
vlm-dense info denseclip_own-masks --classes sky road car      # without its data
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ClassNamesError, ConfigError, DataError

if TYPE_CHECKING:
    from mmengine.config import Config

STAND_INS = ('first class', 'second class')


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('info', __doc__)
    arguments.add_config(parser)
    parser.add_argument(
        '--shape', type=arguments.positive, nargs=2, default=(512, 512), metavar=('H', 'W'), help='image size'
    )
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help=f'{arguments.CLASSES} (default: those of the config and its data)'
    )
    arguments.add_config_arguments(parser)
    arguments.add_json(parser)
    return parser


def name_classes(cfg: Config, names: Sequence[str] | str | None) -> None:
    """Give a model its classes; where the data that have their names are not here, two stand-ins, and say so.

    Args:
        cfg: Changed in place.
        names: Instead of those of the config and its data.
    """
    from vlm_dense.datasets import config_checks
    from vlm_dense.engine.runner import launch
    from vlm_dense.inference.trained import give_names

    if names is None:
        try:
            config_checks.class_names(cfg)
        except (DataError, ClassNamesError):
            names = STAND_INS
            print(f'Counted for {len(names)} classes, as their names are in data that are not here; or give --classes.')
    if names is None:
        launch.fill_class_names(cfg)
    else:
        give_names(cfg, names)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    with user_errors(), arguments.figures_to(args.json) as write:
        arguments.setup(uses=('vlm_dense.engine.runner.launch', 'vlm_dense.inference.counts'))
        from mmengine.config import ConfigDict
        from mmengine.registry import MODELS, init_default_scope

        from vlm_dense.engine.configs.checks import check_values
        from vlm_dense.engine.runner import launch
        from vlm_dense.inference.counts import count_flops, count_parameters, without_weights

        cfg = launch.load_config(args.config, args.cfg_options)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        check_values(cfg)
        name_classes(cfg, arguments.class_list(args.classes))
        model = MODELS.build(ConfigDict(without_weights(cfg.model.to_dict())))
        counts = count_parameters(model)
        total = {k: sum(c[k] for c in counts.values()) for k in ('trained', 'frozen')}
        print(f'{"module":24}{"parameters":>14}{"trained":>14}{"frozen":>14}')
        for name, c in [*counts.items(), ('total', total)]:
            print(f'{name:24}{c["trained"] + c["frozen"]:14,}{c["trained"]:14,}{c["frozen"]:14,}')
        try:
            flops = count_flops(model, *args.shape)
        except (RuntimeError, ValueError) as error:
            why = str(error).splitlines()[0].rstrip('.')
            raise ConfigError(
                f'{args.config} takes no image of {args.shape[0]} x {args.shape[1]} px: {why}. Try another --shape.'
            ) from error
        print(f'{flops / 1e9:,.3f} GFLOPs for a {args.shape[0]}x{args.shape[1]} image (a multiply-add is 2)')
        write(dict(config=args.config, shape=args.shape, flops=flops, parameters=dict(counts, total=total)))
