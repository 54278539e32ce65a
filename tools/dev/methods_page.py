"""Write docs/methods.md.

python tools/dev/methods_page.py [work_dirs/compare] [--benchmark work_dirs/pairs work_dirs/trees]

From what the methods are (docs/data/methods.json) and what comparisons of them on Shapes found. With the folder of a
comparison its figures are first copied to docs/data, else those that are there are used.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import vlm_dense

vlm_dense.setup()  # before others import mmseg
from vlm_dense.comparison import report
from vlm_dense.engine.configs.names import find_config
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import DataError

ROOT = Path(__file__).parents[2]
FIGURES = 'compare_shapes'
"""Name of the figures in docs/data (CSV, and the command as text) and of the picture in docs/images."""
BENCHMARK = 'benchmark'
"""Name of the figures of the drawn benchmark in docs/data (JSON) and of the picture in docs/images."""

HEAD = """# Methods of classification

<!-- written by tools/dev/methods_page.py; change docs/data/methods.json instead -->

`python tools/train.py CONFIG`, or `python tools/test.py CONFIG` where nothing is trained. **Ours** are runs on drawn
scenes with the small bundled models, top-1 in percent: the greatest number of shots, and base / new / harmonic mean of
the base-to-new protocol. **Published** figures are the authors', on other data with other models; they were not run
again here. Data and protocols: [classification_data.md](classification_data.md).
"""

BENCHMARK_HEAD = """How the setting was chosen, and what it shows: [classification.md](classification.md).
`pairs-sketch` are 64 classes, 'red circle' to 'pink heart', on sketches; half of them are base classes.
A figure without ± is that of one seed."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Write docs/methods.md.')
    parser.add_argument('comparison', nargs='?', type=Path, help='--out folder of tools/compare.py')
    parser.add_argument('--benchmark', nargs='+', type=Path, metavar='FOLDER', help='those of the drawn benchmark')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the program."""
    args = parse_args(argv)
    docs = ROOT / 'docs'
    with user_errors():
        if args.comparison:
            keep_figures(args.comparison, docs)
        if args.benchmark:
            keep_benchmark(args.benchmark, docs)
        (docs / 'methods.md').write_text(page(docs, ROOT / 'configs'), encoding='utf-8')


def keep_figures(comparison: Path, docs: Path) -> None:
    """Copy what a comparison found into the documentation.

    Raises:
        DataError: the folder holds no comparison, or one that lacks methods whose figures the page has.
    """
    command, rows = _finished(comparison)
    known = docs / 'data' / f'{FIGURES}.csv'
    lost = {row['method'] for row in report.read_csv(known)} if known.is_file() else set()
    lost -= {row['method'] for row in rows}
    if lost:
        raise DataError(
            f'{comparison} has no figures of {len(lost)} methods that the page has: {", ".join(sorted(lost))}. They '
            f'would be lost. Compare these as well, in the same --out folder, or remove {known} first.'
        )
    shutil.copy(comparison / 'results.csv', docs / 'data' / f'{FIGURES}.csv')
    shutil.copy(comparison / 'results.png', docs / 'images' / f'{FIGURES}.png')
    (docs / 'data' / f'{FIGURES}.txt').write_text(command + '\n', encoding='utf-8')


def _finished(comparison: Path) -> tuple[str, list[dict]]:
    """Command and rows of a comparison."""
    lines = (comparison / 'results.md').read_text('utf-8').splitlines()
    command = next((line for line in lines if line.startswith('`')), None)
    rows = report.read_csv(comparison / 'results.csv') if command else []
    if not rows:
        raise DataError(f'{comparison} holds no finished comparison. Give the --out folder of tools/compare.py.')
    return command.strip('`'), rows


def keep_benchmark(comparisons: list[Path], docs: Path) -> None:
    """Copy what several comparisons found into one file of the documentation, and draw them.

    Raises:
        DataError: a folder holds no comparison.
    """
    parts = [_finished(comparison) for comparison in comparisons]
    content = [
        dict(command=command, fields=report.FIELDS, rows=[[row[name] for name in report.FIELDS] for row in rows])
        for command, rows in parts
    ]
    text = json.dumps(content).replace('], [', '],\n[')
    (docs / 'data' / f'{BENCHMARK}.json').write_text(text + '\n', encoding='utf-8')
    report.draw([row for _, rows in parts for row in rows], docs / 'images' / f'{BENCHMARK}.png')


def benchmark(docs: Path) -> list[str]:
    """The part of the page on the drawn benchmark; nothing without its figures."""
    path = docs / 'data' / f'{BENCHMARK}.json'
    if not path.is_file():
        return []
    parts = ['\n## The drawn benchmark', BENCHMARK_HEAD, f'![The figures below](images/{BENCHMARK}.png)']
    for part in json.loads(path.read_text('utf-8')):
        rows = [dict(zip(part['fields'], row, strict=True)) for row in part['rows']]
        parts.append(f'```bash\n{part["command"]}\n```')
        parts += [f'#{line}' if line.startswith('## ') else line for line in report.tables(rows)]
    return parts


def page(docs: Path, configs: Path) -> str:
    """The text of docs/methods.md."""
    methods = json.loads((docs / 'data' / 'methods.json').read_text('utf-8'))
    figures = docs / 'data' / f'{FIGURES}.csv'
    rows = report.read_csv(figures) if figures.is_file() else []
    lines = ['| method | paper | trains | configs | ours | published |', '|---|---|---|---|---|---|']
    for name, method in methods.items():
        paths = [find_config(configs / f'{name}_{s}.py') for s in ('shapes', 'imagenet')]
        found = [path for path in paths if path.is_file()]
        links = ', '.join(f'[{path.stem.rpartition("_")[2]}](../configs/{path.relative_to(configs)})' for path in found)
        own = [row for row in rows if row['method'] == name]
        entries = (name, method['paper'], method['trains'], links or '-', _ours(own), method.get('published', '-'))
        lines.append(f'| {" | ".join(entries)} |')
    parts = [HEAD, '\n'.join(lines)]
    if rows:
        command = (docs / 'data' / f'{FIGURES}.txt').read_text('utf-8').strip()
        parts += ['\n## Ours in full', f'```bash\n{command}\n```', f'![The figures below](images/{FIGURES}.png)']
        parts += [part.replace('## ', '### ') if part.startswith('## ') else part for part in report.tables(rows)]
    parts += benchmark(docs)
    return '\n\n'.join(parts).replace('\n\n\n', '\n\n') + '\n'


def _ours(rows: list[dict]) -> str:
    shots = max((row['shots'] for row in rows), default=0)
    rows = [row for row in rows if row['shots'] == shots]
    rows = rows + report.harmonic_rows(rows)
    few = [row['value'] for row in rows if row['protocol'] == 'few-shot']
    halves = [[r['value'] for r in rows if r['test'] == test] for test in ('base', 'new', 'harmonic mean')]
    told = [report.mean_of(few)] if few else []
    if all(halves):
        told.append(' / '.join(report.mean_of(half).split(' ')[0] for half in halves))
    return '; '.join(told) or '-'


if __name__ == '__main__':
    main()
