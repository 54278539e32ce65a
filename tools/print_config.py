"""Print a config with all that it builds on: python tools/print_config.py configs/denseclip_shapes.py"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import vlm_dense

vlm_dense.setup()  # before others import mmseg

from vlm_dense.engine import launch


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description='Print a config with all that it builds on.')
    parser.add_argument('config', help='config file')
    launch.add_config_arguments(parser)
    args = parser.parse_args(argv)
    with launch.user_errors():
        print(launch.load_config(args.config, args.cfg_options).pretty_text)


if __name__ == '__main__':
    main()
