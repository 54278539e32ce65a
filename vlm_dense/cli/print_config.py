"""Print a config with all that it builds on.

vlm-dense print-config configs/denseclip_shapes.py
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('print-config', __doc__)
    arguments.add_config(parser)
    arguments.add_config_arguments(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parser().parse_args(argv)
    arguments.setup(uses=('vlm_dense.engine.configs.files',))
    from vlm_dense.engine.configs.files import load_config

    with user_errors():
        print(load_config(args.config, args.cfg_options).pretty_text)
