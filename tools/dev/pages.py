"""Generate the pages on the methods: python tools/dev/pages.py [--check]

- configs/NAME/README.md, configs/NAME/metafile.yml and model-index.yml,
- docs/methods.md, and the table of docs/contract.md,

of PAPER in each method's file, the first comment of each config, docs/data/results.yml, and what comparisons found.
The folders of new comparisons (--comparison work_dirs/compare, --benchmark work_dirs/pairs work_dirs/trees) are first
copied to docs/data, else the figures that are there are used.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import vlm_dense

vlm_dense.setup()  # before others import mmseg
import cards
import records

from vlm_dense.comparison import report
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import DataError

ROOT = records.ROOT
FIGURES, BENCHMARK = records.COMPARISONS
FAMILIES = ('text_prompts', 'visual_prompts', 'joint_prompts', 'adapters', 'test_time', 'fine_tuning')
"""Folders of vlm_dense/methods with methods of classification, in the order of docs/methods.md."""

HEAD = """# Methods of classification

<!-- made by tools/dev/pages.py of PAPER in the files of the methods; change those -->

`python tools/train.py CONFIG`, or `python tools/test.py CONFIG` where nothing is trained. **Ours** are runs on
drawn scenes with the small bundled models in percent: on Shapes with 16 shots if nothing else is said, top-1, and base
/ new / harmonic mean of the base-to-new protocol. **Published** figures are the authors', on other data with other
models; they were not run again here. Data and protocols: [classification_data.md](classification_data.md).
"""

FIGURES_HEAD = """
## Ours in full

Run on 25 November 2026, before version 0.2.0, and not again since."""

BENCHMARK_HEAD = """
## The drawn benchmark

How the setting was chosen, and what it shows: [classification.md](classification.md).
`pairs-sketch` are 64 classes, 'red circle' to 'pink heart', on sketches; half of them are base classes.
A figure without ± is that of one seed.

All rows are of the code of 28 November 2026, before version 0.2.0, but for those that have changed since: SubPT's,
since its first stage has NFL; CAVPT's, since its context begins with the rate 1e-5; VP's, by one image in four
hundred; SVL-Adapter's, since its encoder was pretrained again; those of several labels, since they have F1@3. They
were run again with all seeds on a busy machine, see their minutes. On 1 December 2026 seed 1 of all methods of the
first table was run again, and of the tables of tasks, of ZERO, CLIP-LoRA and the other newer methods, and of MVLPT
and zero-shot in the table of sources: all other figures came out to the digit. The other tables were not run again.

The encoder of SVL-Adapter: `python tools/train.py configs/svl_adapter/svl_adapter_ssl_shapes.py --work-dir
work_dirs/svl_adapter_ssl_sketch --cfg-options train_dataloader.dataset.domain=sketch`."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true', help='write nothing; exit with 1 and name what is stale')
    parser.add_argument('--comparison', type=Path, metavar='FOLDER', help='--out folder of tools/compare.py')
    parser.add_argument('--benchmark', nargs='+', type=Path, metavar='FOLDER', help='those of the drawn benchmark')
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    args = parse_args(argv)
    docs = ROOT / 'docs'
    with user_errors():
        if args.comparison:
            keep_figures(args.comparison, docs)
        if args.benchmark:
            keep_benchmark(args.benchmark, docs)
        files = made()
        stale = [path for path, text in files.items() if not path.is_file() or path.read_text('utf-8') != text]
        for path in stale:
            print(f'{path.relative_to(ROOT)}{" is stale" if args.check else ""}')
            if not args.check:
                path.write_text(files[path], encoding='utf-8')
    return int(args.check and bool(stale))


def made() -> dict[Path, str]:
    """Files of the repository that are made -> their text."""
    methods = records.read_methods(ROOT)
    return {**cards.made(methods), ROOT / 'docs/methods.md': page(methods, ROOT / 'docs')}


def keep_figures(comparison: Path, docs: Path) -> None:
    """Copy what a comparison found into the documentation.

    Raises:
        DataError: the folder holds no comparison, or one that lacks methods with figures on the page.
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
    records.comparisons.cache_clear()


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
    records.comparisons.cache_clear()


def page(methods: list[records.Method], docs: Path) -> str:
    """The text of docs/methods.md."""
    compared = records.comparisons(docs.parent)
    lines = ['| method | paper | trains | configs | ours | published |', '|---|---|---|---|---|---|']
    chosen = [method for method in methods if method.file.parent.name in FAMILIES]
    for method in sorted(chosen, key=lambda each: FAMILIES.index(each.file.parent.name)):
        paper = method.paper
        own = dict(trains=paper.trains, published=paper.published)
        for name, facts in {method.name: own, **paper.variants}.items():
            links = ', '.join(
                f'[{config.name.rpartition("_")[2]}](../{config.file})'
                for config in method.configs
                if config.name in (f'{name}_shapes', f'{name}_imagenet')
            )
            title = f'[{paper.title}]({paper.link}), {paper.venue}'
            entries = (name, title, facts['trains'], links, ours(name, compared), facts.get('published'))
            lines.append(f'| {" | ".join(entry or "-" for entry in entries)} |')
    parts = [HEAD, '\n'.join(lines)]
    shown = None
    for image, command, rows in compared:
        if image != shown:
            parts.append(FIGURES_HEAD if image == FIGURES else BENCHMARK_HEAD)
            parts.append(f'![The figures below](images/{image}.png)')
        parts.append(f'```bash\n{command}\n```')
        parts += [f'#{line}' if line.startswith('## ') else line for line in report.tables(rows)]
        shown = image
    return '\n\n'.join(parts).replace('\n\n\n', '\n\n') + '\n'


def ours(name: str, compared: list[tuple[str, str, list[dict]]]) -> str:
    """Figures of a method in one line: of the first comparison on few images that has it, else of the first one."""
    found = [[row for row in rows if row['method'] in (name, f'{name}_vit')] for _, _, rows in compared]
    found = [rows for rows in found if rows]
    found.sort(key=lambda rows: rows[0]['protocol'] != 'few-shot')  # the order of comparisons stays
    if not found:
        return ''
    rows = [row for row in found[0] if row['dataset'] == found[0][0]['dataset']]
    shots = max(row['shots'] for row in rows)
    told = []
    for protocol in dict.fromkeys(row['protocol'] for row in rows):
        chosen = [row for row in rows if (row['protocol'], row['shots']) == (protocol, shots)]
        values = {}
        for row in chosen + report.harmonic_rows(chosen):
            values.setdefault((row['test'], row['metric']), []).append(row['value'])
        means = [report.mean_of(each).split(' ')[0] for each in values.values()]
        if protocol == 'few-shot':
            told.append(report.mean_of(next(iter(values.values()))))
        elif protocol != 'base-to-new':
            names = [metric if test == 'test' else test for test, metric in values]
            told.append(' / '.join(names) + ': ' + ' / '.join(means))
        elif len(means) == 3:
            told.append(' / '.join(means))
        elif len(found[0]) == len(chosen):
            told.append(f'base: {means[0]}')
    where = (
        ''
        if rows[0]['protocol'] == 'few-shot' and shots == 16
        else f'{rows[0]["dataset"]}, {report.told_shots(shots)}: '
    )
    return (where + '; '.join(told)).replace('All images', 'all images')


if __name__ == '__main__':
    sys.exit(main())
