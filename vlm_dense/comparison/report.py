"""Results of a comparison, as CSV, Markdown and an image."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from vlm_dense.comparison.cells import Cell
from vlm_dense.comparison.protocols import PROTOCOLS
from vlm_dense.errors import DataError

FIELDS = (
    'method',
    'dataset',
    'protocol',
    'test',
    'shots',
    'seed',
    'metric',
    'value',
    'tower',
    'selection',
    'labels',
    'transductive',
    'trained_parameters',
    'seconds_per_step',
    'peak_memory_mb',
    'minutes',
)
"""Columns of the CSV; a row is one test of one cell. ``value`` is in percent."""


def rows_of(found: dict[Cell, dict[str, dict]]) -> list[dict]:
    """Rows of the CSV."""
    rows = []
    for cell, tests in found.items():
        for test, result in tests.items():
            if 'metrics' not in result:
                continue
            of_cell = {name: getattr(cell, name) for name in FIELDS if hasattr(cell, name)}
            of_result = {name: result[name] for name in FIELDS if name in result}
            rows += [
                dict(test=part, metric=metric, value=value, **of_cell, **of_result)
                for part, metric, value in PROTOCOLS[cell.protocol].values(test, result['metrics'])
            ]
    return rows


def skipped_of(found: dict[Cell, dict[str, dict]]) -> list[str]:
    """Lines on the tests that are not defined, and why."""
    return _unique(
        f'{cell.method}, {cell.dataset}, {cell.protocol}, {test}: {result["skipped"]}'
        for cell, tests in found.items()
        for test, result in tests.items()
        if 'skipped' in result
    )


def write_csv(rows: list[dict], path: Path) -> None:
    """Write :data:`FIELDS`."""
    with path.open('w', newline='', encoding='utf-8') as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict]:
    """Rows as :func:`rows_of` gives them."""
    with path.open(newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows, 2):
        try:
            for name in ('shots', 'seed', 'trained_parameters'):
                row[name] = int(row[name])
            for name in ('value', 'seconds_per_step', 'peak_memory_mb', 'minutes'):
                row[name] = float(row[name]) if row[name] else None
            row['transductive'] = row['transductive'] == 'True'
            row['labels'] = row.get('labels') or 'given'  # an older comparison does not say
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f'{path}, line {number}, is no row of a comparison: {error}. Run it again.') from error
    return rows


# --- Markdown -------------------------------------------------------------------------------------------------


def markdown(rows: list[dict], skipped: list[str], failed: dict[Cell, str], command: str) -> str:
    """The page of a comparison: its tables, what is not defined, what failed."""
    parts = ['# Comparison', f'`{command}`', *tables(rows)]
    if skipped:
        parts.append('## Not defined')
        parts.append('\n'.join(f'- {line}' for line in skipped))
    if failed:
        parts.append('## Failed')
        parts.append('\n'.join(f'- {cell}: {why} (`cells/{cell.folder}/log.txt`)' for cell, why in failed.items()))
    return '\n\n'.join(parts) + '\n'


def tables(rows: list[dict]) -> list[str]:
    """Headings and tables in Markdown, with methods as rows.

    Methods that look at test images, or train without given labels, have columns of their own, see :func:`kind_of`.
    """
    parts = ['Percent, mean over seeds and standard deviation where there are several.']
    for dataset in _unique(row['dataset'] for row in rows):
        of_set = [row for row in rows if row['dataset'] == dataset]
        for protocol in _unique(row['protocol'] for row in of_set):
            chosen = [row for row in of_set if row['protocol'] == protocol]
            by_metric = PROTOCOLS[protocol].columns == 'metric'
            parts.append(f'## {dataset}, {protocol}' + ('' if by_metric else f', {chosen[0]["metric"]}'))
            parts += _of_protocol(chosen, protocol)
    if rows:
        parts += ['## Cost and selection', _costs(rows)]
    return parts


def _of_protocol(rows: list[dict], protocol: str) -> list[str]:
    columns = PROTOCOLS[protocol].columns
    every = _unique(sorted(row['shots'] for row in rows))
    if columns == 'shots':
        return [_table(rows, 'shots', told_shots)]
    parts = []
    for shots in every:
        chosen = [row for row in rows if row['shots'] == shots]
        chosen += PROTOCOLS[protocol].summary(chosen)
        parts += [f'{told_shots(shots)}:', _table(chosen, columns)]
    return parts


def harmonic_rows(rows: list[dict]) -> list[dict]:
    """For each method, set, shots and seed with both, a row with test 'harmonic mean', of 'base' and 'new'."""
    return PROTOCOLS['base-to-new'].summary([row for row in rows if row['protocol'] == 'base-to-new'])


def kind_of(row: dict) -> str:
    """Kind of a row, in words; '' for training on given labels without test images."""
    if row['transductive']:
        return 'transductive'
    if row['selection'] == 'test':
        return 'chosen on test images'
    return 'labels guessed' if row['labels'] == 'guessed' else ''


def told_shots(shots: int) -> str:
    """'1 shot', '4 shots', or 'All images' for 0."""
    return f'{shots} shot{"s" * (shots > 1)}' if shots else 'All images'


def _table(rows: list[dict], column: str, title: Callable[[Any], str] = str) -> str:
    kinds = _unique(sorted(map(kind_of, rows)))
    columns = _unique(sorted(row[column] for row in rows) if column == 'shots' else (row[column] for row in rows))
    heads = [title(c) + (f', {kind}' if kind else '') for kind in kinds for c in columns]
    lines = ['| method | ' + ' | '.join(heads) + ' |', '|---|' + '---|' * len(heads)]
    for method in _unique(row['method'] for row in rows):
        own = [row for row in rows if row['method'] == method]
        cells = [
            mean_of([row['value'] for row in own if kind_of(row) == kind and row[column] == name])
            for kind in kinds
            for name in columns
        ]
        lines.append(f'| {method} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def _costs(rows: list[dict]) -> str:
    lines = [
        '| method | data set | tower | chosen on | trained parameters | seconds a step | peak memory, MB | minutes |',
        '|---|---|---|---|---|---|---|---|',
    ]
    for method, dataset in _unique((row['method'], row['dataset']) for row in rows):
        own = [row for row in rows if (row['method'], row['dataset']) == (method, dataset)]
        chosen_on = ', '.join(_unique(sorted(row['selection'] for row in own)))
        trained = _span(row['trained_parameters'] for row in own)
        seconds = [row['seconds_per_step'] for row in own if row['seconds_per_step'] is not None]
        step = f'{statistics.median(seconds):.3g}' if seconds else '-'
        peaks = [row['peak_memory_mb'] for row in own if row['peak_memory_mb'] is not None]
        memory = f'{max(peaks):.0f}' if peaks else '-'
        towers = ', '.join(_unique(row['tower'] for row in own))
        each = {(row['seed'], row['protocol'], row['shots'], row['test']): row['minutes'] for row in own}
        minutes = [value for value in each.values() if value is not None]
        told = f'{statistics.median(minutes):.1f}' if minutes else '-'
        lines.append(f'| {method} | {dataset} | {towers} | {chosen_on} | {trained} | {step} | {memory} | {told} |')
    return '\n'.join(lines)


def mean_of(values: list[float]) -> str:
    """'45.0 ± 7.1', the mean and the standard deviation over seeds, or '-' of nothing."""
    if not values:
        return '-'
    spread = f' ± {statistics.stdev(values):.1f}' if len(values) > 1 else ''
    return f'{statistics.mean(values):.1f}{spread}'


def _span(numbers: Iterable[int]) -> str:
    numbers = list(numbers)
    low, high = min(numbers), max(numbers)
    return f'{low:,}' if low == high else f'{low:,} to {high:,}'


def _unique(values: Iterable) -> list:
    return list(dict.fromkeys(values))


# --- image --------------------------------------------------------------------------------------------------


def draw(rows: list[dict], path: Path) -> None:
    """Few-shot accuracy, a panel for each method over the others in grey; below, dots of the other protocols.

    With one number of shots few-shot accuracy is dots, too. Whiskers are standard deviations over seeds. A method that
    has a kind is dashed, and told beside its dots, see :func:`kind_of`. The vertical line is zero-shot.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = _unique((r['protocol'], r['dataset']) for r in rows)
    panels.sort(key=lambda panel: list(PROTOCOLS).index(panel[0]))
    if not panels:
        return
    parts = [[row for row in rows if (row['protocol'], row['dataset']) == panel] for panel in panels]
    heights = [1.7 * _lines_of(part) + 0.9 if _has_curves(part) else 0.26 * _methods_of(part) + 1.5 for part in parts]
    figure = Figure((10, sum(heights)), layout='constrained')
    FigureCanvasAgg(figure)
    places = figure.subfigures(len(parts), 1, height_ratios=heights, squeeze=False)[:, 0]
    for place, part in zip(places, parts, strict=True):
        metric = '' if PROTOCOLS[part[0]['protocol']].columns == 'metric' else f': {part[0]["metric"]}'
        place.suptitle(f'{part[0]["dataset"]}, {part[0]["protocol"]}{metric}, %')
        if _has_curves(part):
            _panels(place, part)
        else:
            _dots(place.subplots(), part)
    figure.savefig(path, dpi=90)


_COLUMNS = 6
_GREYS, _MARKS = ('0.65', '0.45', '0.3'), 'osD^'


def _has_curves(rows: list[dict]) -> bool:
    return rows[0]['protocol'] == 'few-shot' and len({row['shots'] for row in rows}) > 1


def _methods_of(rows: list[dict]) -> int:
    return len(_unique(row['method'] for row in _of_most_shots(rows)))


def _lines_of(rows: list[dict]) -> int:
    """Lines of panels that the methods of ``rows`` fill."""
    return -(-len(_unique(row['method'] for row in rows)) // _COLUMNS)


def _panels(figure, rows: list[dict]) -> None:
    """A panel for each method, with its line over those of all others."""
    methods = _unique(row['method'] for row in rows)
    grid = figure.subplots(_lines_of(rows), min(_COLUMNS, len(methods)), sharex=True, sharey=True, squeeze=False)
    curves = {method: _curve([row for row in rows if row['method'] == method]) for method in methods}
    ticks = sorted({row['shots'] for row in rows})
    for axes in grid.flat[len(methods) :]:
        axes.set_axis_off()
    for axes, method in zip(grid.flat[: len(methods)], methods, strict=True):
        for shots, means, _ in curves.values():
            axes.plot(shots, means, color='0.85', linewidth=1)
        style = '--' if kind_of(next(row for row in rows if row['method'] == method)) else '-'
        axes.errorbar(*curves[method], linestyle=style, marker='o', markersize=4, capsize=2, color='C0')
        axes.set_title(method, fontsize='small')
        axes.set_xscale('log', base=2)
        axes.set_xticks(ticks, [str(tick) for tick in ticks])
        axes.tick_params(labelbottom=True)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.supxlabel('images of a class', fontsize='medium')


def _curve(rows: list[dict]) -> tuple[list[int], list[float], list[float]]:
    """Shots, means and deviations over seeds."""
    shots = sorted({row['shots'] for row in rows})
    values = [[row['value'] for row in rows if row['shots'] == count] for count in shots]
    return shots, list(map(statistics.mean, values)), list(map(_deviation, values))


def _deviation(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _dots(axes, rows: list[dict]) -> None:
    """A line of dots for each method, the best on top, and where there is one a vertical line for zero-shot."""
    rows = _of_most_shots(rows)
    protocol = PROTOCOLS[rows[0]['protocol']]
    shots, rows = rows[0]['shots'], rows + protocol.summary(rows)
    column = 'metric' if protocol.columns == 'metric' else 'test'
    series = protocol.drawn or _unique(row[column] for row in rows)
    values = {
        (method, kind): [[r['value'] for r in rows if (r['method'], r[column]) == (method, name)] for name in series]
        for method, kind in _unique((row['method'], kind_of(row)) for row in rows)
    }
    first = series.index(protocol.drawn[-1] if protocol.drawn else series[-1])
    order = sorted(values, key=lambda key: [statistics.mean(v) if v else -1 for v in reversed(values[key])])
    for i, name in enumerate(series):
        there = [(y, values[key][i]) for y, key in enumerate(order) if values[key][i]]
        axes.errorbar(
            [statistics.mean(found) for _, found in there],
            [y for y, _ in there],
            xerr=[_deviation(found) for _, found in there],
            color='C0' if i == first else _GREYS[i % len(_GREYS)],
            marker=_MARKS[i % len(_MARKS)],
            markersize=7 if i == first else 6,
            linestyle='none',
            elinewidth=1.5,
            label=name,
            zorder=3 if i == first else 2,
        )
    plain = next((key for key in order if key[0].startswith('zero_shot')), None)
    if plain and values[plain][first]:
        axes.axvline(statistics.mean(values[plain][first]), color='C1', linewidth=1, zorder=1)
    axes.set_yticks(range(len(order)), [f'{method} ({kind})' if kind else method for method, kind in order])
    axes.set_ylim(-0.7, len(order) - 0.3)
    axes.set_xlabel(f'%, {shots} images of a class' if shots else '%, all images')
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    if len(series) > 1:
        axes.legend(fontsize='small', ncols=3, loc='lower center', bbox_to_anchor=(0.5, 1.0))


def _of_most_shots(rows: list[dict]) -> list[dict]:
    most = max(row['shots'] for row in rows)
    return [row for row in rows if row['shots'] == most]
