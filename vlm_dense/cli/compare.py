"""Compare methods.

vlm-dense compare --methods coop kgcoop --datasets shapes --shots 1 4 16 --seeds 1 2 3

With --plan it runs nothing and prints what it would run, as a table and with --json as data: sentences, epochs, batch,
rates, search sets, and what differs from the method's ImageNet config; no data are needed.

Runs what is missing, in several processes, and writes results.csv, results.md and results.png into the folder of --out.
It may be stopped at any time, also with kill -9: the same command continues.
"""

from __future__ import annotations

import argparse
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import vlm_dense
from vlm_dense.cli import arguments
from vlm_dense.engine.configs.names import CONFIGS, list_configs
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError, unknown_name

PROTOCOLS = (
    'few-shot',
    'base-to-new',
    'transfer',
    'domain-generalisation',
    'multi-label',
    'hierarchical',
    'tasks',
    'open-vocabulary',
    'open-vocabulary-detection',
)


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('compare', __doc__)
    parser.add_argument('--methods', nargs='+', required=True, help='as in configs/<method>_<dataset>.py')
    parser.add_argument('--datasets', nargs='+', default=['shapes'], help='as there, or as caltech101, pairs-night')
    parser.add_argument('--shots', nargs='+', type=int, default=[1, 2, 4, 8, 16], help='training images of a class')
    parser.add_argument('--seeds', nargs='+', type=int, default=[1, 2, 3], help='of the choice of images and the run')
    parser.add_argument(
        '--protocols',
        nargs='+',
        default=['few-shot'],
        metavar='PROTOCOL',
        help=f'of {", ".join(PROTOCOLS)}',
    )
    parser.add_argument(
        '--plan',
        action='store_true',
        help='print what each cell would run and where it differs from ImageNet, and run nothing; also with --json',
    )
    parser.add_argument('--out', default='work_dirs/compare', type=Path, help='folder of cells and results')
    parser.add_argument('--workers', type=int, help='processes (default: one a core, or one where there is a GPU)')
    parser.add_argument('--data-root', metavar='DIR', help='where the data lie, if not where the configs say')
    arguments.add_config_arguments(parser)
    arguments.add_json(parser)
    arguments.add_quiet(parser)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line and look whether there are such methods and protocols."""
    args = parser().parse_args(argv)
    with user_errors():
        for method in args.methods:
            _look_for(method)
        for protocol in args.protocols:
            if protocol not in PROTOCOLS:
                raise ConfigError(unknown_name(protocol, 'protocols', PROTOCOLS))
    return args


def _look_for(method: str) -> None:
    """Check whether a method has a config at all."""
    stems = [path.stem for path in list_configs(CONFIGS)]
    if not any(stem.startswith(f'{method}_') for stem in stems):
        known = {stem.rpartition('_')[0] for stem in stems}
        raise ConfigError(unknown_name(method, f'methods with a config in {CONFIGS}', known))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns 1 if a cell failed."""
    args = parse_args(argv)
    os.environ.setdefault('OMP_NUM_THREADS', '1')  # a cell is a process; its threads would fight with the others'
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the cells end as well
    with user_errors(interrupted=arguments.KEPT), arguments.figures_to(args.json) as write:
        vlm_dense.setup()  # before others import mmseg
        from vlm_dense.comparison import plans, report
        from vlm_dense.comparison.cells import plan
        from vlm_dense.comparison.runs import results, run_cells

        command = arguments.as_typed('compare', argv)
        if args.workers is not None and args.workers < 1:
            raise ConfigError(f'--workers must be at least 1, found {args.workers}.')
        options = dict(args.cfg_options or {}, **(dict(data_root=args.data_root) if args.data_root else {}))
        cells = plan(CONFIGS, args.methods, args.datasets, args.protocols, args.shots, args.seeds, options)
        if args.plan:
            told = plans.plans(cells, CONFIGS)
            print(plans.as_table(told))
            write(told)
            return 0
        args.out.mkdir(parents=True, exist_ok=True)
        failed = run_cells(cells, args.out, args.workers or _default_workers(), _progress(args.quiet))
        found = results(cells, args.out)
        rows = report.rows_of(found)
        report.write_csv(rows, args.out / 'results.csv')
        text = report.markdown(rows, report.skipped_of(found), failed, command)
        (args.out / 'results.md').write_text(text, encoding='utf-8')
        report.draw(rows, args.out / 'results.png')
        print(f'\n\n{text}\nWritten: {args.out}/results.csv, results.md, results.png')
        why = {str(cell): reason for cell, reason in failed.items()}
        write(dict(rows=rows, skipped=report.skipped_of(found), failed=why))
    return 1 if failed else 0


def _default_workers() -> int:
    import torch

    return 1 if torch.cuda.is_available() else len(os.sched_getaffinity(0))


def _progress(quiet: bool) -> Callable[[int, int], None]:
    from mmengine.utils import ProgressBar

    bar = None

    def told(finished: int, every: int) -> None:
        nonlocal bar
        if quiet:
            return
        if every and bar is None:
            bar = ProgressBar(every)
        for _ in range(finished - (bar.completed if bar else 0)):
            bar.update()

    return told
