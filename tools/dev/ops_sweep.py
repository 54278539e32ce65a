"""Every config of an installed mmdet or mmseg with the stand-in for mmcv's kernels, and with the compiled ones.

Each model is built with random weights, trains one step and predicts once on small random images, in this
environment, and in another one if its Python is named; the same seeds in both. Configs with the same model run
once. Every run is a process of its own with a limit of time; the results are kept in a file, and a stopped
sweep continues from there.

    python tools/dev/ops_sweep.py mmdet --results sweep.jsonl
    python tools/dev/ops_sweep.py mmdet --results sweep.jsonl --compiled /path/to/other/bin/python

The table counts configs:

- same: runs with both, and losses, gradients and predictions are the same.
- differs: runs with both, and they are not.
- here only: the compiled kernels refuse (mmcv has some for GPUs only).
- compiled only: what the stand-in lacks.
- one step: trains or predicts, with both and the same; the other step fails with both, for a reason that is listed.
- neither: fails with both for a reason of its own; the reasons are listed.

Where no compiled environment is named, it counts what runs and what fails.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from pathlib import Path

from stock.all_configs import Environment, breadth_first, read, sweep
from stock.one_model import MEMORY, worker
from stock.outcomes import outcomes, report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('package', choices=['mmdet', 'mmseg'])
    parser.add_argument('--results', type=Path, default=Path('ops_sweep.jsonl'), help='kept results')
    parser.add_argument('--compiled', metavar='PYTHON', help='of an environment with compiled kernels of mmcv')
    parser.add_argument('--only', default='*', metavar='PATTERN', help='configs with a matching path')
    parser.add_argument('--size', type=int, default=128, help='sides of the images, pixels; 0: of each config')
    parser.add_argument('--limit', type=float, default=120, help='seconds of the processor for one model')
    parser.add_argument('--memory', type=float, default=MEMORY, help='GiB of address space for one model')
    parser.add_argument('--report', action='store_true', help='only print the table of the kept results')
    parser.add_argument('--worker', action='store_true', help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.worker:
        worker(args.package, args.limit, args.memory)
        return 0
    from importlib.util import find_spec

    folder = Path(find_spec(args.package).origin).parent / '.mim' / 'configs'
    paths = [path for path in breadth_first(folder) if fnmatch.fnmatch(str(path.relative_to(folder)), args.only)]
    if not args.report:
        pythons = [sys.executable] + ([args.compiled] if args.compiled else [])
        environments = [Environment(python, args.package, args.limit, args.memory) for python in pythons]
        found = [environment.kernels for environment in environments]
        if found != ['stand-in', 'compiled'][: len(found)]:
            parser.error(f'the kernels must be the stand-in here and compiled in --compiled; found {found}')
        sweep(paths, folder, environments, args.results, args.size)
    done = read(args.results)
    names = [str(path.relative_to(folder)) for path in paths]
    names = [name for name in names if (name, 'stand-in') in done]
    compared = bool(args.compiled) or any(kernels == 'compiled' for _, kernels in done)
    report(done, names, compared)
    return int(bool(outcomes(done, names, compared).keys() & {'differs', 'compiled only'}))


if __name__ == '__main__':
    sys.exit(main())
