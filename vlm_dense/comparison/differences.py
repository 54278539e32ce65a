"""What tells two results, or two configs, apart: choices, those that usually move figures most first, and classes."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlm_dense.comparison.choices import ORDER, Moved, choices, digest
from vlm_dense.comparison.results import read_result
from vlm_dense.engine.configs.names import find_config
from vlm_dense.engine.runner.launch import read_config

_SHOWN = 60  # letters of a value
_OF_A_RUN = ('data.images', 'tower.digest', 'method.weights', 'precision.numbers')  # a config does not know them
_WHOLE = ('method.', 'names.synonyms', 'pamr', 'smoothing', 'tower.text')  # one choice each, of several values


class Difference(NamedTuple):
    """A choice that two results do not share.

    Attributes:
        choice: Its dotted name.
        values: Its values in both.
        moved: The entry of :data:`~vlm_dense.comparison.choices.ORDER` that it belongs to.
    """

    choice: str
    values: tuple[Any, Any]
    moved: Moved


class Shift(NamedTuple):
    """IoU of a class in two results, in percent; None where it has none."""

    name: str
    values: tuple[float | None, float | None]

    @property
    def change(self) -> float | None:
        """From the first to the second."""
        first, second = self.values
        return None if first is None or second is None else second - first


def read(place: str) -> dict[str, Any]:
    """A result, see :func:`~vlm_dense.comparison.results.read_result`; of a config its choices alone.

    Args:
        place: A JSON, a folder, a config or its name.
    """
    path = Path(place)
    if path.suffix == '.json' or path.is_dir():
        return read_result(path)
    cfg = read_config(Namespace(config=place, cfg_options=None, data_root=None))
    return dict(config=find_config(path).stem, choices=choices(cfg))


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    """The choices that differ, in the order of :data:`~vlm_dense.comparison.choices.ORDER`.

    What only one of the two can know, as the digest of weights that a config has not read, is left out.

    Args:
        a, b: Choices.
    """
    both = [_flat(one) for one in (a, b)]
    for key in {k for one in both for k in one if k.startswith(_OF_A_RUN)}:
        if any(one.get(key) is None for one in both):
            for one in both:
                one.pop(key, None)
    keys = [k for k in dict.fromkeys((*both[0], *both[1])) if both[0].get(k) != both[1].get(k)]
    keys = [k for k in keys if not (k.endswith('.digest') and _is_told(k, keys))]
    found = [Difference(key, (both[0].get(key), both[1].get(key)), _moved(key)) for key in keys]
    ranks = {one: rank for rank, one in enumerate(ORDER)}  # what a later version knows comes last
    return sorted(found, key=lambda one: (ranks.get(one.moved, len(ORDER)), keys.index(one.choice)))


def _is_told(key: str, keys: Sequence[str]) -> bool:
    """Whether what a digest is of differs as well, which says more."""
    return any(k != key and k.startswith(f'{key.rpartition(".")[0]}.') for k in keys) or (
        key == 'names.digest' and 'background.names' in keys
    )


def _flat(node: Any, path: str = '') -> dict[str, Any]:
    """Dotted key -> value of a tree of dicts; values that are empty or None are left out, as if nothing were said."""
    if isinstance(node, dict) and not path.startswith(_WHOLE):
        found: dict[str, Any] = {}
        for key, value in node.items():
            found |= _flat(value, f'{path}.{key}'.lstrip('.'))
        return found
    return {} if node is None or node in ([], {}, False) else {path: node}


def _moved(key: str) -> Moved:
    fitting = [one for one in ORDER if key == one.name or key.startswith(f'{one.name}.')]
    return max(fitting, key=lambda one: len(one.name)) if fitting else Moved(key, '')


def shifts(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Shift]:
    """Classes of both results with different IoU, those that moved most first."""
    first, second = a.get('classes') or {}, b.get('classes') or {}
    found = [Shift(name, (first[name], second[name])) for name in first if name in second]
    return sorted(
        (one for one in found if one.values[0] != one.values[1]),
        key=lambda one: -abs(one.change if one.change is not None else 100),
    )


def told(a: Mapping[str, Any], b: Mapping[str, Any], most: int | None = None) -> str:
    """Both for a terminal: a line each choice, then figures and classes.

    Args:
        a, b: As :func:`read` gives them.
        most: Number of classes that are shown; None: all.
    """
    found, moved = differences(a['choices'], b['choices']), shifts(a, b)
    lines = [f'A: {a.get("config")}', f'B: {b.get("config")}', '']
    if found:
        lines.append(f'{_count(len(found), "choice")} differ{"s" * (len(found) == 1)}, by how much they usually move:')
        width, said = max(len(one.choice) for one in found), set()
        for one in found:
            seen = f'   [{one.moved.seen}]' if one.moved.seen and one.moved not in said else ''
            said.add(one.moved)
            lines.append(f'  {one.choice:{width}}  {_values(*one.values)}{seen}')
    else:
        lines.append('No choice differs.')
    if 'metrics' in a and 'metrics' in b:
        lines += ['', *_figures(a, b, moved, most)]
    return '\n'.join(lines)


def _figures(a: Mapping, b: Mapping, moved: Sequence[Shift], most: int | None) -> list[str]:
    rows = [Shift(name, (value, b['metrics'][name])) for name, value in a['metrics'].items() if name in b['metrics']]
    rows = [row for row in rows if row.values[0] != row.values[1]]
    lines = [_row(row, 'figures', rows) for row in rows] or ['All figures are the same.']
    if moved:
        lines += ['', f'{_count(len(moved), "class", "classes")} by how much IoU moved:']
        lines += [_row(row, 'classes', moved) for row in moved[:most]]
    return lines


def _row(row: Shift, what: str, rows: Sequence[Shift]) -> str:
    width = max(len(one.name) for one in rows)
    values = ' -> '.join('  none' if value is None else f'{value:6.2f}' for value in row.values)
    return f'  {row.name:{width}}  {values}' + ('' if row.change is None else f'  {row.change:+.2f}')


def _values(a: Any, b: Any) -> str:
    """Two values on a line; of lists and dicts what they do not share."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [k for k in dict.fromkeys((*a, *b)) if a.get(k) != b.get(k)]
        return f'{_cut("; ".join(f"{k}: {_text(a.get(k))} -> {_text(b.get(k))}" for k in keys), 2 * _SHOWN)}'
    if isinstance(a, list) and isinstance(b, list):
        if len(a) == len(b):
            pairs = [(x, y) for x, y in zip(a, b, strict=True) if x != y]
            return ' -> '.join(_cut(_text([pair[i] for pair in pairs])) for i in (0, 1))
        alone = [x for x in a if x not in b], [y for y in b if y not in a]
        return f'{" -> ".join(_cut(_text(one)) if one else "-" for one in alone)} ({len(a)} -> {len(b)})'
    return ' -> '.join(_cut(_text(value)) for value in (a, b))


def _text(value: Any) -> str:
    """A value as one reads it: a component by its name and arguments."""
    if value is None:
        return 'none'
    if isinstance(value, list):
        text = ', '.join(map(_text, value))
        return text if any(isinstance(one, (str, dict)) for one in value) else f'[{text}]'
    if isinstance(value, dict):
        rest = ', '.join(f'{k}={_text(v)}' for k, v in value.items() if k != 'type')
        kind = _text(value['type']) if 'type' in value else ''
        return f'{kind}({rest})' if rest and kind else kind or rest
    return str(value).removeprefix('vlm_dense.')


def _cut(text: str, most: int = _SHOWN) -> str:
    return text if len(text) <= most else f'{text[: most - 3]}...'


def _count(number: int, one: str, several: str | None = None) -> str:
    return f'{number} {one if number == 1 else several or f"{one}s"}'


def as_json(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, Any]:
    """Both as data."""
    found = differences(a['choices'], b['choices'])
    return dict(
        choices=[dict(choice=one.choice, a=one.values[0], b=one.values[1], seen=one.moved.seen) for one in found],
        metrics={k: [v, b['metrics'][k]] for k, v in a.get('metrics', {}).items() if k in b.get('metrics', {})},
        classes=[dict(name=one.name, a=one.values[0], b=one.values[1], change=one.change) for one in shifts(a, b)],
    )


def same(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether neither a choice nor a figure differs."""
    figures = [{k: one.get(k) for k in ('metrics', 'classes', 'confusion', 'images')} for one in (a, b)]
    both = 'metrics' in a and 'metrics' in b
    return not differences(a['choices'], b['choices']) and (not both or digest(figures[0]) == digest(figures[1]))
