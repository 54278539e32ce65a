"""Arguments, run and summary of the programs that go over any number of images, ``label`` and ``features``."""

from __future__ import annotations

import argparse
import glob
import os
from collections.abc import Mapping, Sequence

from vlm_dense.cli import arguments
from vlm_dense.engine.messages import local_rank
from vlm_dense.errors import ConfigError, counted
from vlm_dense.zoo import METHODS


def add_arguments(parser: argparse.ArgumentParser, formats: Sequence[str]) -> None:
    """Add the arguments of programs that go over any number of images, see :mod:`vlm_dense.inference.bulk`."""
    parser.add_argument(
        'images', help='folder, list (*.txt), tar shards (*.tar, shard-{000..127}.tar, a glob), or table (*.parquet)'
    )
    parser.add_argument('out', help='folder for the results')
    arguments.add_model_arguments(parser)
    parser.add_argument('--method', choices=METHODS, metavar='NAME', help=f'instead of --model: {", ".join(METHODS)}')
    parser.add_argument('--format', choices=formats, default=formats[0], help='of the results (%(default)s)')
    parser.add_argument(
        '--shard', metavar='I/N', help='share of this process, as 0/4 (default: that of torchrun or SLURM, or all)'
    )
    parser.add_argument(
        '--part-size',
        type=arguments.positive,
        default=1000,
        metavar='N',
        help='images of a part, what is resumed (%(default)s)',
    )
    parser.add_argument(
        '--check',
        action='store_true',
        help='do finished parts again that lack a result or have a replaced image (of parts written with this option)',
    )
    parser.add_argument('--column', metavar='NAME', help='of the images in a table')
    parser.add_argument(
        '--batch-size', type=arguments.positive, default=8, help='images at a time in the model (%(default)s)'
    )
    parser.add_argument('--threads', type=arguments.positive, default=2, help='for decoding and encoding (%(default)s)')
    arguments.add_json(parser)
    arguments.add_quiet(parser)


def run_program(args: argparse.Namespace, worker: dict, **options) -> dict:
    """Run a program of :func:`add_arguments`; returns the summary.

    Args:
        args: The arguments.
        worker: Further arguments of :class:`vlm_dense.inference.bulk.worker.Worker`.
        **options: Further arguments of :func:`vlm_dense.inference.bulk.run.run`.
    """
    share = share_of(args.shard, os.environ)
    if '://' not in args.images and not glob.has_magic(args.images) and '{' not in args.images:
        arguments.existing_images([args.images])
    arguments.setup(args.quiet, ('vlm_dense.inference.bulk.run',))
    from vlm_dense.inference.bulk.run import run
    from vlm_dense.inference.bulk.sources import check_source
    from vlm_dense.inference.bulk.worker import Worker

    check_source(args.images)
    names = ('model', 'weights', 'method', 'arch', 'pretrained', 'device', 'batch_size', 'threads')
    chosen = {name: getattr(args, name) for name in names}
    if chosen['device'] is None and os.environ.get('LOCAL_RANK', '').isdigit():
        import torch

        count = torch.cuda.device_count()
        chosen['device'] = f'cuda:{local_rank() % count}' if count else None
    model = Worker(**chosen, **worker, max_pixels=args.max_pixels or None)
    told = None if args.quiet else lambda line: print(line, flush=True)
    more = {name: getattr(args, name) for name in ('format', 'part_size', 'column', 'check')}
    return run(model, args.images, args.out, shard=share, told=told, **more, **options)


def share_of(text: str | None, environment: Mapping[str, str]) -> tuple[int, int]:
    """The share ``i/n`` of this process: as written, else that of torchrun, of a SLURM array, of srun, else all.

    Tasks of a SLURM array that start several processes each (srun) share their share.

    Raises:
        ConfigError: it is no such text.
    """
    if text is not None:
        number, slash, count = text.partition('/')
        if not (slash and number.isdigit() and count.isdigit() and int(number) < int(count)):
            raise ConfigError(f'Expected a share as 0/4, 1/4, 2/4 or 3/4, found {text!r}.')
        return int(number), int(count)

    def of(name: str) -> int | None:
        return int(environment[name]) if environment.get(name, '').isdigit() else None

    if of('RANK') is not None and of('WORLD_SIZE'):
        return of('RANK'), of('WORLD_SIZE')
    number, count = 0, 1
    if of('SLURM_ARRAY_TASK_ID') is not None and of('SLURM_ARRAY_TASK_COUNT'):
        first, step = of('SLURM_ARRAY_TASK_MIN') or 0, of('SLURM_ARRAY_TASK_STEP') or 1
        number, count = (of('SLURM_ARRAY_TASK_ID') - first) // step, of('SLURM_ARRAY_TASK_COUNT')
    if of('SLURM_PROCID') is not None and (of('SLURM_NTASKS') or 1) > 1:
        number, count = number * of('SLURM_NTASKS') + of('SLURM_PROCID'), count * of('SLURM_NTASKS')
    return number, count


def print_summary(found: dict, out: str) -> None:
    """Print the summary of a run of :func:`run_program`."""
    rest = '' if found['parts'] == found['parts_in_all'] else ', those of this share'
    parts = f'{found["parts"]} of {counted(found["parts_in_all"], "part")}'
    print(f'{counted(found["images"], "image")} in {out}; {parts}{rest}.')
    for index, (name, part) in enumerate(found.get('histogram', {}).items()):
        print(f'  {index:3}  {part:6.1%}  {name}  (in {counted(found["images_with"][name], "image")})')
    bad = found['bad_files']
    if bad:
        print(f'{len(bad)} cannot be used, all are in the summary:')
        for key, reason in list(bad.items())[:5]:
            print(f'  {key}: {reason}')
