"""Train the model of a config: python tools/train.py configs/denseclip_shapes.py"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import vlm_dense
from vlm_dense.cli import arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train the model of a config.')
    arguments.add_config(parser)
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue training from CHECKPOINT, or without it from the latest one in the work dir, if any',
    )
    parser.add_argument('--load-from', metavar='CHECKPOINT', help='begin with the weights of CHECKPOINT')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision (GPU)')
    arguments.add_common_arguments(parser)
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and what is wrong with the arguments, before torch is imported

vlm_dense.setup()  # before others import mmseg
from vlm_dense.engine.runner import launch


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    launch.train(parse_args(argv))


if __name__ == '__main__':
    main()
