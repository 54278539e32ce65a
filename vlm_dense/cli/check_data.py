"""Check the data of a config before training: counts, sizes, classes, files that cannot be used, and images.

vlm-dense check-data configs/denseclip/denseclip_own-masks.py --data-root DIR --classes names.txt
"""

from __future__ import annotations

from collections.abc import Sequence

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import user_errors


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('check-data', __doc__)
    arguments.add_config(parser)
    arguments.add_data(parser)
    parser.add_argument('--out', metavar='DIR', help='for images (work_dirs/check_data/<config>)')
    parser.add_argument('--samples', type=arguments.positive, default=6, help='in each image (%(default)s)')
    parser.add_argument('--show', type=arguments.positive, default=10, help='faults that are listed (%(default)s)')
    arguments.add_config_arguments(parser)
    arguments.add_json(parser)
    arguments.add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; 1 if some files cannot be used."""
    args = parser().parse_args(argv)
    with user_errors(), arguments.figures_to(args.json) as write:
        arguments.setup(args.quiet, ('vlm_dense.inference.data_report',))
        from vlm_dense.inference.data_report import check

        reports = check(args)
        write({name: report.figures() for name, report in reports.items()})
    return int(any(report.faults for report in reports.values()))
