"""Results of a comparison of segmentation models: CSV, one table, and an image a data set."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vlm_dense.colours import class_colours
from vlm_dense.comparison.dense import Cell, result_at
from vlm_dense.datasets.config_checks import class_names
from vlm_dense.drawing import colour, draw_rows

FIELDS = ('method', 'dataset', 'images', 'mIoU', 'mAcc', 'aAcc', 'seconds', 'peak_mb', 'work_mb', 'device', 'threads')
"""Columns of the CSV. Scores are in percent; ``seconds`` are those of an image; ``work_mb`` is the peak beyond the
model."""


ORACLES = ('oracle_masks_mIoU', 'oracle_classes_mIoU', 'boundary_mIoU', 'interior_mIoU', 'boundary_share', 'ECE')
"""Further columns, of ``--oracles``, see :class:`vlm_dense.segmentation.OracleMetric`."""


def rows_of(cells: Sequence[Cell], out: Path) -> list[dict]:
    """Rows of the CSV: cells with scores."""
    rows = []
    for cell in cells:
        result = result_at(cell.file(out, 'results'))
        if result:
            found = result['metrics'] | (result_at(cell.file(out, 'cost')) or {})
            found |= dict(method=cell.method, dataset=cell.dataset, images=result['images'])
            rows.append({name: found.get(name) for name in (*FIELDS, *(n for n in ORACLES if n in found))})
    return rows


def write_csv(rows: Sequence[dict], path: Path) -> None:
    """Write :data:`FIELDS`, and :data:`ORACLES` where a row has them."""
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, [*FIELDS, *(name for name in ORACLES if any(name in row for row in rows))])
        writer.writeheader()
        writer.writerows(rows)


def markdown(rows: Sequence[dict], failed: dict[Cell, str], command: str) -> str:
    """The table, a line a method, with its command and the failures."""
    datasets = list(dict.fromkeys(row['dataset'] for row in rows))
    head = ['method', *(f'{d}: {name}' for d in datasets for name in ('mIoU', 's an image', 'MB'))]
    head += ['mean mIoU'] if len(datasets) > 1 else []
    lines = [f'| {" | ".join(head)} |', f'|{"---|" * len(head)}']
    for method in dict.fromkeys(row['method'] for row in rows):
        own = {row['dataset']: row for row in rows if row['method'] == method}
        line = [method]
        for dataset in datasets:
            row = own.get(dataset, {})
            line += [
                _number(row.get('mIoU'), '.1f'),
                _number(row.get('seconds'), '.3g'),
                _number(row.get('work_mb'), '.0f'),
            ]
        if len(datasets) > 1:
            whole = len(own) == len(datasets)
            line.append(_number(statistics.mean(row['mIoU'] for row in own.values()) if whole else None, '.1f'))
        lines.append(f'| {" | ".join(line)} |')
    lines += _oracles(rows)
    notes = [f'`{command}`', '']
    for dataset in datasets:
        counts = ', '.join(sorted({str(row['images']) for row in rows if row['dataset'] == dataset}))
        notes.append(f'- {dataset}: {counts} images')
    kinds = {f'{row["device"]}, {row["threads"]} threads' for row in rows if row['device']}
    notes.append(
        '- s an image: median of single images, the model alone, text encoded before; MB: peak memory beyond the model'
        f' ({"; ".join(sorted(kinds)) or "not measured"})'
    )
    notes += [f'- failed: {cell.method}, {cell.dataset}: {why}' for cell, why in failed.items()]
    return '\n'.join([*lines, '', *notes, ''])


def _oracles(rows: Sequence[dict]) -> list[str]:
    """The table of the oracles, of the rows that have them."""
    told = [row for row in rows if row.get('oracle_masks_mIoU') is not None]
    if not told:
        return []
    head = ['method', 'data', 'mIoU', 'true masks', 'true names', 'boundary', 'interior', 'boundary pixels', 'ECE']
    lines = ['', f'| {" | ".join(head)} |', f'|{"---|" * len(head)}']
    for row in told:
        cells = [_number(row.get(name), '.1f') for name in ('mIoU', *ORACLES)]
        lines.append(f'| {row["method"]} | {row["dataset"]} | {" | ".join(cells)} |')
    return lines


def _number(value: float | None, form: str) -> str:
    return '-' if value is None else format(value, form)


def draw(cells: Sequence[Cell], out: Path) -> list[Path]:
    """An image of each data set: image, truth and the labels of each method side by side; returns the files."""
    files = []
    for dataset in dict.fromkeys(cell.dataset for cell in cells):
        found = {}
        for cell in cells:
            path = cell.file(out, 'pictures').with_suffix('.npz')  # codespell:ignore pictures
            if cell.dataset == dataset and path.is_file():
                with np.load(path, allow_pickle=False) as arrays:
                    found[cell] = dict(arrays)
        if not any(found.values()):
            continue
        files.append(out / f'{dataset}.png')
        _image(found).save(files[-1])
    return files


def _image(found: dict[Cell, dict]):
    first = next(cell for cell, arrays in found.items() if arrays)
    names = class_names(first.cfg, ('test_dataloader',))
    colours = class_colours(names)
    rows, seen = [], set()
    for i in range(sum(key.startswith('image_') for key in found[first])):
        image, truth = found[first][f'image_{i}'], found[first][f'truth_{i}']
        image = np.ascontiguousarray(image.transpose(1, 2, 0)[..., ::-1])  # BGR
        image = cv2.resize(image, truth.shape[::-1], interpolation=cv2.INTER_AREA)
        maps = [truth, *(arrays.get(f'{cell.method}_{i}', np.full_like(truth, 255)) for cell, arrays in found.items())]
        seen.update(*(np.unique(m).tolist() for m in maps))
        rows.append([image, *(colour(m, colours) for m in maps)])
    legend = [(names[k], colours[k]) for k in sorted(seen) if k < len(names)]
    return draw_rows(rows, ['image', 'truth', *(cell.method for cell in found)], legend, tile=128, most=6)
