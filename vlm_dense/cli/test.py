"""Test a model.

vlm-dense test configs/denseclip_shapes.py work_dirs/denseclip_shapes/iter_800.pth

Models that nothing trains need no checkpoint: vlm-dense test configs/maskclip/maskclip_tiny-vit_shapes.py

Every choice behind the figures goes into WORK_DIR/<time>/result.json, and vlm-dense diff tells two of them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('test', __doc__)
    arguments.add_config(parser)
    parser.add_argument(
        'checkpoint', nargs='?', help='.pth or .safetensors file; not for models with frozen weights only'
    )
    parser.add_argument('--show-dir', metavar='DIR', help='save an image of every prediction in DIR')
    parser.add_argument('--out', help='keep predictions: a folder for label maps (PNG), or a .pkl file of everything')
    parser.add_argument('--tta', action='store_true', help="use the config's test-time augmentation")
    arguments.add_oracles(parser)
    arguments.add_common_arguments(parser)
    arguments.add_json(parser)
    arguments.add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> dict:
    """Run the program; returns the metrics."""
    args = parser().parse_args(argv)
    with user_errors(), arguments.figures_to(args.json) as write:
        arguments.setup(uses=('vlm_dense.engine.runner.launch', 'vlm_dense.comparison.results'))
        from vlm_dense.comparison.results import ResultHook
        from vlm_dense.engine.runner import launch

        metrics = launch.test(args, [ResultHook(args.oracles)])
        if args.quiet:
            arguments.print_metrics(metrics)
        write(metrics)
    return metrics
