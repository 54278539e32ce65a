"""Print the figures of README and docs again, old and new side by side.

python tools/dev/figures.py --data-root camvid=DIR

Which figure stands on which page, the command that prints it and how it is found in the output are in
docs/data/results.yml. Commands that take longer than --minutes, or lack their data, are listed and left out.
An entry with ``seeds: 3`` is run with the seeds 0, 1 and 2, and its figures are mean ± standard deviation of the three.
Outputs are kept in --out: a command with kept output is not run again, so a stopped run continues. The program exits
with 1 if a figure differs from its page; fix the page and the value in docs/data/results.yml together.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


@dataclass
class Figure:
    """One number of a page.

    Attributes:
        label: What it is.
        find: Regular expression with one group; its last match in the output is the new figure.
        value: The figure as the pages have it; ``mean ± deviation`` where several seeds are run.
        tolerance: Greatest difference that is not told, in the figure's unit: 0 for what repeats exactly.
        factor: From the unit of the output to that of the pages: 100 where a share is printed.
    """

    label: str
    find: str
    value: str
    tolerance: float = 0.0
    factor: float = 1.0

    def read(self, *outputs: str) -> str | None:
        """The new figure of a run or of one for each seed, with as many decimals as the old one.

        ``None`` if an output has none. The deviation is that of a sample (n - 1).
        """
        found = [re.findall(self.find, output) for output in outputs]
        if not all(found):
            return None
        values = [float(matches[-1]) * self.factor for matches in found]
        decimals = len(self.value.partition(' ')[0].partition('.')[2])
        mean = f'{statistics.mean(values):.{decimals}f}'
        return mean if len(values) == 1 else f'{mean} ± {statistics.stdev(values):.{decimals}f}'

    def same(self, new: str | None) -> bool:
        """Whether the page is still right."""
        if new is None:
            return False
        pairs = zip(new.split(' ± '), self.value.split(' ± '), strict=True)
        return all(abs(float(a) - float(b)) <= self.tolerance + 1e-9 for a, b in pairs)


@dataclass
class Entry:
    """A command and the figures that it prints.

    Attributes:
        name: Of its files.
        pages: Where the figures stand.
        command: As a user types it; ``{name}`` is a data set that --data-root names.
        minutes: What one run takes on one core.
        figures: What it prints.
        seeds: Number of runs, each with its own ``randomness.seed``.
    """

    name: str
    pages: list[str]
    command: str
    minutes: float
    figures: list[Figure]
    seeds: int = 1


def read_entries(path: Path = ROOT / 'docs' / 'data' / 'results.yml') -> list[Entry]:
    """The commands of this project's own figures."""
    listed = yaml.safe_load(path.read_text(encoding='utf-8'))['own']
    return [Entry(**{**entry, 'figures': [Figure(**f) for f in entry['figures']]}) for entry in listed]


def run(entry: Entry, roots: dict[str, str], out: Path, seed: int = 0) -> str:
    """Output of a command, from an earlier run if it is there. Seed 0 is that of the configs.

    Raises:
        RuntimeError: the command failed; names the file with its output.
    """
    name = f'{entry.name}_seed{seed}' if seed else entry.name
    log, partial = out / f'{name}.log', out / f'{name}.partial'
    if log.is_file():
        return log.read_text(encoding='utf-8')
    words = shlex.split(entry.command.format(**roots))
    if words[0] == 'python':
        words[0] = sys.executable
    if words[1] in ('tools/train.py', 'tools/test.py'):
        words += ['--work-dir', str(out / name)]
    if seed:
        words += [] if '--cfg-options' in words else ['--cfg-options']
        words.insert(words.index('--cfg-options') + 1, f'randomness.seed={seed}')
    threads = dict(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')  # figures are those of one thread
    with partial.open('w', encoding='utf-8') as file:
        done = subprocess.run(words, cwd=ROOT, env={**os.environ, **threads}, stdout=file, stderr=subprocess.STDOUT)
    if done.returncode:
        raise RuntimeError(f'{shlex.join(words)} ended with status {done.returncode}; see {partial}.')
    partial.replace(log)
    return log.read_text(encoding='utf-8')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--data-root', action='append', default=[], metavar='NAME=DIR', help='as camvid=DIR')
    parser.add_argument('--minutes', type=float, default=30, help='longest command to run (default: 30)')
    parser.add_argument('--only', metavar='WORD', help='entries with this word in their name')
    parser.add_argument('--out', type=Path, default=Path('work_dirs/figures'), help='where outputs are kept')
    args = parser.parse_args(argv)
    roots = dict(pair.split('=', 1) for pair in args.data_root)
    out = args.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    rows, wrong = [], 0
    for entry in (e for e in read_entries() if args.only is None or args.only in e.name):
        needed = set(re.findall(r'\{(\w+)\}', entry.command)) - set(roots)
        minutes = entry.minutes * entry.seeds
        if needed or minutes > args.minutes:
            why = f'needs --data-root {needed.pop()}=DIR' if needed else f'takes {minutes:g} minutes'
            rows += [(entry.name, f.label, f.value, '-', why) for f in entry.figures]
            continue
        start = time.monotonic()
        print(f'{entry.command}  (about {minutes:g} min)', flush=True)
        outputs = [run(entry, roots, out, seed) for seed in range(entry.seeds)]
        print(f'  {(time.monotonic() - start) / 60:.1f} min', flush=True)
        for figure in entry.figures:
            new = figure.read(*outputs)
            wrong += not figure.same(new)
            rows.append((entry.name, figure.label, figure.value, new or 'none', '' if figure.same(new) else 'DIFFERS'))
    head = ('command', 'figure', 'page', 'new', '')
    widths = [max(len(str(row[i])) for row in (head, *rows)) for i in range(5)]
    for row in (head, *rows):
        print('  '.join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f'{wrong} figures differ from their pages.')
    return int(wrong > 0)


if __name__ == '__main__':
    sys.exit(main())
