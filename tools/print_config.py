"""Print a config with all that it builds on: python tools/print_config.py configs/denseclip_shapes.py"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import vlm_dense
from vlm_dense.cli import arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Print a config with all that it builds on.')
    arguments.add_config(parser)
    arguments.add_config_arguments(parser)
    return parser.parse_args(argv)


if __name__ == '__main__':
    parse_args()  # --help and what is wrong with the arguments, before torch is imported

vlm_dense.setup()  # before others import mmseg
from vlm_dense.engine.runner import launch


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parse_args(argv)
    with launch.user_errors():
        print(launch.load_config(args.config, args.cfg_options).pretty_text)


if __name__ == '__main__':
    main()
