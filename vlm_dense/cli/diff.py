"""Tell two results, or two configs, apart: which choices differ, a line each, and which classes moved.

vlm-dense diff work_dirs/a work_dirs/b
vlm-dense diff configs/sclip/sclip_vit-b16_voc21.py clearclip_vit-b16_voc21

Each of the two is a result (the JSON of a test, or the folder of its run, the newest one in it) or a config. Choices
are listed by how much they usually move figures, see docs/protocols.md; with two results classes follow by how much
they moved. Leaves with 0 if nothing differs, with 1 if something does.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vlm_dense.cli import arguments
from vlm_dense.engine.configs.names import existing_config
from vlm_dense.engine.messages import user_errors


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('diff', __doc__)
    for name in ('a', 'b'):
        parser.add_argument(name, metavar=name.upper(), help='a result, the folder of a run, or a config')
    parser.add_argument('--classes', type=arguments.positive, metavar='N', help='number of classes shown (all)')
    arguments.add_json(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns 1 if something differs."""
    args = parser().parse_args(argv)
    with user_errors():
        for place in (args.a, args.b):
            if not place.endswith('.json') and not Path(place).is_dir():
                existing_config(place)
    with user_errors(), arguments.figures_to(args.json) as write:
        arguments.setup(uses=('vlm_dense.comparison.differences',))
        from vlm_dense.comparison import differences

        a, b = differences.read(args.a), differences.read(args.b)
        print(differences.told(a, b, args.classes))
        write(differences.as_json(a, b))
    return 0 if differences.same(a, b) else 1
