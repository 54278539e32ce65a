"""Fill a small disk before runs at every step of their writing; nothing older may be lost, and each goes on.

    mount -t tmpfs -o size=8m tmpfs /mnt/small
    python tests/faults/disk_full.py /mnt/small --folder /tmp/whole --kind segmentor classifier --steps 8

Each run gets a little more room than the one before, so that the disk is full at the first checkpoint, at a later one,
at the best one, at the result. It must end with status 2, leave only whole checkpoints, and, with room again, end as
the uninterrupted run does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import kills  # first: it sets vlm_dense up
import torch


def fill(folder: Path, room: int) -> Path:
    """Write a file that leaves ``room`` bytes."""
    path = folder / 'filler'
    status = os.statvfs(folder)
    path.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - room)))
    return path


def attack(kind: str, disk: Path, elsewhere: Path, steps: int) -> list[str]:
    """What went wrong in ``steps`` runs of a kind."""
    elsewhere.mkdir(parents=True)
    run = kills.KINDS[kind](elsewhere)
    status, _ = kills.forked(run, elsewhere / 'whole', None)
    assert status == 0, f'see {elsewhere}/whole.log'
    expected = kills.result(elsewhere / 'whole')
    needed = sum(p.stat().st_size for p in (elsewhere / 'whole').rglob('*') if p.is_file())
    failures, full = [], 0
    for step in range(steps):
        work_dir = disk / f'{kind}{step}'
        work_dir.mkdir()
        filler = fill(disk, 60_000 + needed * step // steps)
        status, _ = kills.forked(run, work_dir, None, elsewhere)
        left = sorted(work_dir.glob('*.pth'))
        wrong = [] if status in (0, 2) else [f'left with status {status}']
        full += status == 2
        for path in left:
            try:
                torch.load(path, map_location='cpu', weights_only=False)
            except Exception as error:
                wrong.append(f'{path.name} is broken: {error}')
        filler.unlink()
        again, _ = kills.forked(run, work_dir, None, elsewhere)
        wrong += [f'goes on with status {again}'] if again else kills.differences(expected, kills.result(work_dir))
        print(f'{kind}, step {step}: status {status}, left {[p.name for p in left]}, {wrong or "goes on"}', flush=True)
        failures += wrong
        shutil.rmtree(work_dir)
    print(f'{kind}: the disk was full in {full} of {steps} runs, {len(failures)} failures', flush=True)
    return failures


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the number of failures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('disk', type=Path, help='a small disk, of which all is used')
    parser.add_argument('--kind', nargs='+', choices=list(kills.KINDS), default=['segmentor', 'classifier'])
    parser.add_argument('--steps', type=int, default=8)
    parser.add_argument('--folder', type=Path, required=True, help='for the uninterrupted runs, on another disk')
    args = parser.parse_args(argv)
    kills.prepare_process()
    return sum(len(attack(kind, args.disk, args.folder / kind, args.steps)) for kind in args.kind)


if __name__ == '__main__':
    sys.exit(min(main(), 1))
