"""Run a config with each choice set to what another protocol has, and table the differences.

vlm-dense ablate sclip_tiny-vit_shapes --images 50
vlm-dense ablate sclip_vit-b16_voc21 --protocols clearclip naclip --choices threshold size windows

The method stays; thresholds, size of images, windows, refinement, synonyms, temperature, sentences and positions are
taken, one by one and all at once, from the configs of the protocols. Writes results.md, results.json and one result a
run, for vlm-dense diff, into the folder of --out. It may be stopped at any time, also with kill -9: the same command
continues.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import vlm_dense
from vlm_dense.cli import arguments
from vlm_dense.engine.configs.names import CONFIGS, find_config
from vlm_dense.engine.messages import user_errors

PROTOCOLS = ('sclip', 'clearclip', 'naclip', 'proxyclip', 'trident', 'cat_seg')
CHOICES = ('threshold', 'size', 'windows', 'pamr', 'synonyms', 'area', 'temperature', 'templates', 'positions', 'all')


def parser() -> arguments.Parser:
    """The arguments."""
    parser = arguments.Parser('ablate', __doc__)
    arguments.add_config(parser)
    parser.add_argument(
        '--protocols',
        nargs='+',
        choices=PROTOCOLS,
        default=PROTOCOLS,
        metavar='NAME',
        help=f'of {", ".join(PROTOCOLS)}',
    )
    parser.add_argument(
        '--choices', nargs='+', choices=CHOICES, default=CHOICES, metavar='NAME', help=f'of {", ".join(CHOICES)}'
    )
    parser.add_argument('--like', metavar='SET', help='public data set with the settings of the protocols')
    parser.add_argument('--images', type=arguments.positive, metavar='N', help='this number, evenly spread (all)')
    parser.add_argument('--out', type=Path, help='folder of results (default: work_dirs/ablate/<config>)')
    parser.add_argument('--data-root', metavar='DIR', help='where the data lie, if not where the config says')
    arguments.add_config_arguments(parser)
    arguments.add_json(parser)
    arguments.add_quiet(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns 1 if a run failed."""
    args = parser().parse_args(argv)
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C
    with user_errors(interrupted=arguments.KEPT), arguments.figures_to(args.json) as write:
        vlm_dense.setup()  # before others import mmseg
        from vlm_dense.comparison import ablation, dense

        path = find_config(args.config)
        out = args.out or Path('work_dirs', 'ablate', path.stem)
        dense.log_into(out / 'log.txt')
        cfg = dense.read_cell(path, dict(args.cfg_options or {}), args.data_root, out)
        like = args.like or ablation.like_of(cfg, path.stem)
        protocols = {name: ablation.protocol_config(CONFIGS, name, like) for name in args.protocols}
        trials = ablation.plan(cfg, path.stem, args.images, protocols, args.choices)
        failed: dict[dense.Cell, str] = {}
        cells = {trial.cell.key: trial.cell for trial in trials if trial.cell is not None}
        missing = [cell for cell in cells.values() if not dense.result_at(cell.file(out, 'results'))]
        for group in dense.groups(missing):
            if not args.quiet:
                print(f'\n{", ".join(cell.method for cell in group)}', flush=True)
            failed |= dense.run_group(group, out, 1, arguments.progress(args.quiet))
        rows = ablation.rows_of(trials, out, failed)
        images = 'all images' if args.images is None else f'{args.images} images'
        text = ablation.markdown(rows, path.stem, images, like, arguments.as_typed('ablate', argv))
        (out / 'results.md').write_text(text, encoding='utf-8')
        dense.write_json(out / 'results.json', dict(rows=rows))
        print(f'\n\n{text}\nWritten: {out / "results.md"}, {out / "results.json"}, {out / "results"}')
        write(dict(config=path.stem, like=like, rows=rows))
    return 1 if failed else 0
