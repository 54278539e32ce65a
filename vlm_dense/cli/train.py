"""Train the model of a config.

vlm-dense train configs/denseclip_shapes.py
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_dense.cli import arguments


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('train', __doc__)
    arguments.add_config(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue training from CHECKPOINT, or without it from the latest one in the work dir, if any',
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace the checkpoints of another run in the work dir'
    )
    parser.add_argument('--load-from', metavar='CHECKPOINT', help='begin with the weights of CHECKPOINT')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (GPU)')
    arguments.add_common_arguments(parser)
    arguments.add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    arguments.setup(uses=('vlm_dense.engine.runner.launch',))
    from vlm_dense.engine.runner import launch

    metrics = launch.train(args)
    if args.quiet:
        arguments.print_metrics(metrics)
