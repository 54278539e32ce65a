"""Write docs/matrix.md, methods x towers x data sets, from the results of compare-dense.

python tools/dev/matrix_page.py work_dirs/compare_dense ...

Rows go into docs/data/matrix.json, instead of older ones of the same method, tower and set; the page is made of that
file. Without a folder the page is written again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE, ROWS = ROOT / 'docs' / 'matrix.md', ROOT / 'docs' / 'data' / 'matrix.json'
BEGIN, END = '<!-- the tables are made by tools/dev/matrix_page.py -->', '<!-- end of the tables -->'
TOWERS = dict([('tiny-vit', ('shapes', 'camvid'))])
PUBLIC = ('voc21', 'context60', 'coco-object', 'voc20', 'context59', 'coco-stuff', 'cityscapes', 'ade20k')
TOWERS |= dict.fromkeys(('vit-b16', 'vit-l14'), PUBLIC)
"""Towers -> data sets that have configs of every method."""
_KEPT = ('mIoU', 'images', 'seconds', 'processor_seconds', 'work_mb', 'device', 'threads', 'choices', 'code')


def rows_of(folder: Path) -> list[dict]:
    """Rows of a folder of compare-dense.

    Raises:
        SystemExit: it holds no results.
    """
    from vlm_dense.comparison.choices import digest

    rows = []
    for path in sorted((folder / 'results').glob('*.json')):
        result = json.loads(path.read_text(encoding='utf-8'))
        cost = folder / 'cost' / path.name
        found = result | (json.loads(cost.read_text(encoding='utf-8')) if cost.is_file() else {})
        found |= dict(choices=digest(result['choices']), code=result['choices']['code']['digest'])
        (method, tower), name = result['config'].rpartition('_')[0].rsplit('_', 1), result['config'].rpartition('_')[2]
        rows.append(dict(method=method, tower=tower, set=name, **{key: found.get(key) for key in _KEPT}))
    if not rows:
        raise SystemExit(f'{folder} holds no results/*.json. Give a folder of --out of vlm-dense compare-dense.')
    return rows


def merged(old: Sequence[dict], new: Sequence[dict]) -> list[dict]:
    """Rows with newer ones instead of those of the same method, tower and set, sorted."""
    found = {(row['tower'], row['set'], row['method']): row for row in (*old, *new)}
    return [found[key] for key in sorted(found)]


def tables(rows: Sequence[dict]) -> str:
    """The tables in Markdown: one of each tower, and how to run what is not there."""
    parts = []
    for tower, sets in TOWERS.items():
        own = [row for row in rows if row['tower'] == tower]
        parts.append(f'## {tower}')
        there = [name for name in sets if any(row['set'] == name for row in own)]
        if own:
            parts.append(_table(own, there))
            parts.append(_notes(own, there))
        missing = [name for name in sets if name not in there]
        if missing:
            roots = ' '.join(f'{name}=DIR' for name in missing)
            command = f'python tools/compare_dense.py --tower {tower} --datasets {" ".join(missing)}'
            command += f' \\\n    --data-root {roots}'
            parts.append(f'Not run here: {", ".join(missing)}. Where their data and the weights are:')
            parts.append(f'```bash\n{command}\npython tools/dev/matrix_page.py work_dirs/compare_dense\n```')
    return '\n\n'.join(parts)


def _table(rows: Sequence[dict], sets: Sequence[str]) -> str:
    head = ['method', *(f'{name}: {what}' for name in sets for what in ('mIoU', 's an image', 'MB'))]
    lines = [f'| {" | ".join(head)} |', '|' + '---|' * len(head)]
    for method in dict.fromkeys(row['method'] for row in sorted(rows, key=lambda row: row['method'])):
        cells = [method]
        for name in sets:
            row = next((r for r in rows if (r['method'], r['set']) == (method, name)), {})
            seconds = 'processor_seconds' if row.get('device') == 'CPU' else 'seconds'
            forms = (('mIoU', '.1f'), (seconds, '.2g'), ('work_mb', '.0f'))
            cells += ['-' if row.get(key) is None else format(row[key], form) for key, form in forms]
        lines.append(f'| {" | ".join(cells)} |')
    return '\n'.join(lines)


def _notes(rows: Sequence[dict], sets: Sequence[str]) -> str:
    lines = []
    for name in sets:
        own = [row for row in rows if row['set'] == name]
        images = ' or '.join(sorted({str(row['images']) for row in own}))
        kinds = sorted({f'{row["device"]}, {row["threads"]} threads' for row in own if row['device']})
        lines.append(f'- {name}: {images} images; seconds and memory on {"; ".join(kinds) or "nothing yet"}')
    return '\n'.join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('folders', nargs='*', type=Path, help='of --out of vlm-dense compare-dense')
    args = parser.parse_args(argv)
    rows = json.loads(ROWS.read_text(encoding='utf-8')) if ROWS.is_file() else []
    rows = merged(rows, [row for folder in args.folders for row in rows_of(folder)])
    ROWS.write_text('[\n' + ',\n'.join(json.dumps(row) for row in rows) + '\n]\n', encoding='utf-8')
    before, rest = PAGE.read_text(encoding='utf-8').split(BEGIN)
    PAGE.write_text(f'{before}{BEGIN}\n\n{tables(rows)}\n\n{END}{rest.split(END)[1]}', encoding='utf-8')
    print(f'{PAGE}: {len(rows)} rows')


if __name__ == '__main__':
    main()
