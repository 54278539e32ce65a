"""Compare MaskCLIP and its successors: methods by data sets, one table with mIoU, seconds an image, and peak memory.

vlm-dense compare-dense --methods maskclip sclip naclip --datasets shapes camvid --data-root camvid=DIR
vlm-dense compare-dense --methods naclip lposs --datasets voc20 ade20k --tower vit-b16

Runs the missing cells of configs/<method>/<method>_<tower>_<data set>.py and writes results.md, results.csv and an
image a data set into the folder of --out. It may be stopped at any time, also with kill -9: the same command continues.
Names are encoded once for all methods with the same text side; methods with the same input images share them, and the
blocks of a tower that they have in common.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import vlm_dense
from vlm_dense.cli import arguments
from vlm_dense.engine.configs.names import CONFIGS, existing_config
from vlm_dense.engine.forked import forked_context
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError
from vlm_dense.zoo import METHODS

if TYPE_CHECKING:
    from vlm_dense.comparison import dense


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('compare-dense', __doc__)
    parser.add_argument('--methods', nargs='+', default=list(METHODS), help='as in configs/ (default: %(default)s)')
    parser.add_argument('--datasets', nargs='+', default=['shapes'], help='as in configs/ (default: %(default)s)')
    parser.add_argument('--tower', default='tiny-vit', help='as in configs/: tiny-vit, vit-b16, vit-l14 (%(default)s)')
    parser.add_argument('--images', nargs='+', default=[], metavar='SET=N', help='this number, evenly spread (all)')
    parser.add_argument(
        '--timed', type=arguments.positive, default=8, metavar='N', help='images of the median time (%(default)s)'
    )
    parser.add_argument(
        '--drawn',
        '--pictures',  # codespell:ignore pictures
        type=arguments.positive,
        default=3,
        metavar='N',
        help='images that are drawn with their label maps, evenly spread (%(default)s)',
    )
    arguments.add_oracles(parser)
    parser.add_argument('--out', default='work_dirs/compare_dense', type=Path, help='folder of results (%(default)s)')
    parser.add_argument('--data-root', nargs='+', default=[], metavar='SET=DIR', help='where the data lie')
    arguments.add_config_arguments(parser)
    arguments.add_json(parser)
    arguments.add_quiet(parser)
    return parser


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line and look whether there are such configs."""
    args = parser().parse_args(argv)
    with user_errors():
        for method, dataset in itertools.product(args.methods, args.datasets):
            existing_config(CONFIGS / f'{method}_{args.tower}_{dataset}.py')
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns 1 if a cell failed."""
    args = parse_args(argv)
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: a measurement ends as well
    with user_errors(interrupted=arguments.KEPT), arguments.figures_to(args.json) as write:
        vlm_dense.setup()  # before others import mmseg
        from vlm_dense.comparison import dense, dense_report

        command = arguments.as_typed('compare-dense', argv)
        roots = _by_set('--data-root', args.data_root, args.datasets)
        images = {name: _count(text) for name, text in _by_set('--images', args.images, args.datasets).items()}
        options = dict(args.cfg_options or {})
        dense.log_into(args.out / 'log.txt')
        cells = dense.plan(
            CONFIGS, args.methods, args.datasets, args.tower, images, roots, options, args.out, args.oracles
        )
        failed: dict[dense.Cell, str] = {}
        missing = [cell for cell in cells if not dense.result_at(cell.file(args.out, 'results'))]
        for group in dense.groups(missing):
            if not args.quiet:
                print(f'\n{group[0].dataset}: {", ".join(cell.method for cell in group)}', flush=True)
            failed |= dense.run_group(group, args.out, args.drawn, arguments.progress(args.quiet))
        for cell in cells:
            if cell not in failed and not dense.result_at(cell.file(args.out, 'cost')):
                failed |= _measure(cell, args.out, args.timed)
        rows = dense_report.rows_of(cells, args.out)
        dense_report.write_csv(rows, args.out / 'results.csv')
        text = dense_report.markdown(rows, failed, command)
        (args.out / 'results.md').write_text(text, encoding='utf-8')
        files = dense_report.draw(cells, args.out)
        print(
            f'\n\n{text}\nWritten: {", ".join(map(str, (args.out / "results.md", args.out / "results.csv", *files)))}'
        )
        write(dict(rows=rows, failed={f'{cell.method}, {cell.dataset}': why for cell, why in failed.items()}))
    return 1 if failed else 0


def _by_set(option: str, texts: Sequence[str], datasets: Sequence[str]) -> dict[str, str]:
    pairs = [text.partition('=') for text in texts]
    wrong = [text for text, (name, _, value) in zip(texts, pairs, strict=True) if name not in datasets or not value]
    if wrong:
        raise ConfigError(f'{option} takes SET=VALUE with a set of {list(datasets)}, found {", ".join(wrong)}.')
    return {name: value for name, _, value in pairs}


def _count(text: str) -> int:
    try:
        return arguments.positive(text)
    except argparse.ArgumentTypeError as error:
        raise ConfigError(f'--images: {error}.') from error


def _measure(cell: dense.Cell, out: Path, images: int) -> dict[dense.Cell, str]:
    """Measure a cell in a process of its own, so that its memory is measured alone."""
    from vlm_dense.comparison import dense

    context = forked_context('vlm_dense.comparison.preload')
    process = context.Process(target=dense.run_cost, args=(cell, out, images), daemon=True)
    process.start()
    process.join()
    return {} if process.exitcode == 0 else {cell: f'its measurement left with status {process.exitcode}'}
