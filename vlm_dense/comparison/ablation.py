"""What of a figure is the protocol: a config run with each choice set to what another protocol has.

A protocol is what the configs of a method say for a public data set with the tower ViT-B/16: names and sentences, size
of images, windows, temperature, thresholds, refinement, positions. The method itself stays.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from vlm_dense.comparison.choices import plain, positions
from vlm_dense.comparison.dense import Cell, make_cell, result_at
from vlm_dense.datasets.config_checks import class_names, leaves
from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.configs.names import find_config
from vlm_dense.errors import ConfigError, unknown_name

PROTOCOLS = ('sclip', 'clearclip', 'naclip', 'proxyclip', 'trident', 'cat_seg')
SETS = ('voc21', 'context60', 'coco-object', 'voc20', 'context59', 'coco-stuff', 'cityscapes', 'ade20k')
"""Data sets that protocols have settings for."""
_INSTEAD = {'voc21': 'voc20', 'context60': 'context59', 'coco-object': 'coco-stuff', 'cityscapes': 'ade20k'}
"""Where a protocol, as CAT-Seg's, has no config for a set."""
_ORDER = ('OriginalSize', 'PAMR', 'Probabilities', 'Aliases', 'AreaThreshold', 'ProbabilityThreshold', 'SumToOne')
_ABSENT = '-'  # of a protocol without such a choice


class Part(NamedTuple):
    """A choice of a protocol.

    Attributes:
        name: As in a command.
        get: Its value in a config, as JSON has it.
        put: Changes a config to a value of another config.
        text: Short words for a value.
    """

    name: str
    get: Callable[[Config], Any]
    put: Callable[[Config, Any], None]
    text: Callable[[Any], str]


@dataclass(frozen=True)
class Trial:
    """A choice with the value of a protocol; of the config itself both are 'own'.

    Attributes:
        text: Words for the value.
        cell: What is run; None if the config has the value itself, or the protocol has no such choice.
    """

    choice: str
    protocol: str
    text: str
    cell: Cell | None


# --- choices --------------------------------------------------------------------------------------------------


def _step(cfg: Config, kind: str) -> dict | None:
    return next((s for s in cfg.model.get('postprocess') or () if _name(s) == kind), None)


def _put_step(cfg: Config, kind: str, step: dict | None) -> None:
    """Replace a step, take it out (None), or put it where it belongs."""
    steps = [s for s in cfg.model.get('postprocess') or () if _name(s) != kind]
    if step is not None:
        later = [i for i, s in enumerate(steps) if _rank(s) > _ORDER.index(kind)]
        steps.insert(later[0] if later else len(steps), step)
    cfg.model.postprocess = steps


def _rank(step: dict) -> int:
    return _ORDER.index(_name(step)) if _name(step) in _ORDER else -1


def _name(node: Mapping | str) -> str:
    return (node if isinstance(node, str) else node['type']).rpartition('.')[2]


def _of_step(name: str, kind: str, argument: str) -> Part:
    """A choice that is a step of ``postprocess``."""

    def get(cfg: Config) -> Any:
        return plain(_step(cfg, kind)) if 'postprocess' in cfg.model else _ABSENT

    def text(step: Any) -> str:
        return 'none' if step is None else str(step.get(argument, 'on'))

    return Part(name, get, lambda cfg, step: _put_step(cfg, kind, step), text)


def _pipeline(cfg: Config) -> list:
    """The transforms of the test images, to be changed in place."""
    return next(leaf for _, leaf in leaves(cfg.test_dataloader.dataset, ''))['pipeline']


def _size(cfg: Config) -> Any:
    return plain([{k: v for k, v in t.items() if k != 'type'} for t in _pipeline(cfg) if 'Resize' in t['type']])


def _put_size(cfg: Config, sizes: list[dict]) -> None:
    pipeline = _pipeline(cfg)
    kept = [t for t in pipeline if 'Resize' not in t['type']]
    kind = 'vlm_dense.ResizeImage' if _name(kept[0]) == 'DrawScene' else 'Resize'  # labels are there already
    resizing = [dict(type=kind, **_pairs(size)) for size in sizes]
    pipeline[:] = [kept[0], *resizing, *kept[1:]]


def _pairs(options: dict) -> dict:
    """Options with the pairs of numbers as mmcv takes them."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


_WINDOWS = ('mode', 'crop_size', 'stride', 'window_multiple', 'resize', 'overview')


def _windows(cfg: Config) -> Any:
    return plain({k: cfg.model.test_cfg[k] for k in _WINDOWS if k in cfg.model.test_cfg})


def _put_windows(cfg: Config, windows: dict) -> None:
    cfg.model.test_cfg = {k: v for k, v in cfg.model.test_cfg.items() if k not in _WINDOWS} | _pairs(windows)


def _windows_text(windows: dict) -> str:
    if windows.get('mode', 'whole') == 'whole':
        return 'whole'
    text = f'{windows["crop_size"][0]}/{windows["stride"][0]}'
    return f'{text} of {windows["resize"][0]}' if windows.get('resize') else text


def _synonyms(cfg: Config) -> Any:
    """How the names of the lists of this package are used."""
    parts = (cfg.model.get('decode_head') or {}).get('refinements') or ()
    found = next((p for p in parts if _name(p) == 'Aliases'), None)
    if 'postprocess' not in cfg.model and cfg.model.type != 'vlm_dense.MaskCLIP':
        return dict(keep='first', keep_all=[])  # official names
    return dict(keep=(found or {}).get('keep', 'max'), keep_all=list((found or {}).get('keep_all', ())))


def _put_synonyms(cfg: Config, value: dict) -> None:
    head = cfg.model.get('decode_head') or {}
    others = [p for p in head.get('refinements') or () if _name(p) != 'Aliases']
    cfg.model.decode_head = dict(head, refinements=[dict(type='vlm_dense.Aliases', **value), *others])


def _synonyms_text(value: dict) -> str:
    if value['keep'] != 'first':
        return 'all'
    return 'first, all of background' if value['keep_all'] else 'first'


def _positions(cfg: Config) -> Any:
    return positions(cfg.model.backbone)


def _put_positions(cfg: Config, value: dict) -> None:
    cfg.model.backbone.update(value)


def _templates(cfg: Config) -> Any:
    return plain((cfg.model.get('text_prompt') or {}).get('templates', _ABSENT))


def _put_templates(cfg: Config, value: Any) -> None:
    cfg.model.text_prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=value)


def _templates_text(value: Any) -> str:
    return value if isinstance(value, str) else f'{len(value)} own' if len(value) > 1 else repr(value[0])


PARTS = (
    _of_step('threshold', 'ProbabilityThreshold', 'thresh'),
    Part('size', _size, _put_size, lambda sizes: ', '.join(str(min(s['scale'])) for s in sizes) or 'as it is'),
    Part('windows', _windows, _put_windows, _windows_text),
    _of_step('pamr', 'PAMR', 'dilations'),
    Part('synonyms', _synonyms, _put_synonyms, _synonyms_text),
    _of_step('area', 'AreaThreshold', 'thresh'),
    _of_step('temperature', 'Probabilities', 'scale'),
    Part('templates', _templates, _put_templates, _templates_text),
    Part('positions', _positions, _put_positions, lambda value: ', '.join(value.values())),
)
"""The choices, those that usually move figures most first."""
ALL = 'all'
"""All of them at once."""


# --- plan -----------------------------------------------------------------------------------------------------


def like_of(cfg: Config, stem: str) -> str:
    """The public set with the settings that a data set gets: itself, or one that has a background as it has."""
    own = stem.rpartition('_')[2]
    if own in SETS:
        return own
    names = class_names(cfg, ('test_dataloader',)) or ()
    return 'voc21' if 'background' in names else 'ade20k'


def protocol_config(configs: Path, protocol: str, like: str) -> Config:
    """The config of a protocol for a public set, or for the nearest one that it has.

    Raises:
        ConfigError: no such protocol or set.
    """
    if protocol not in PROTOCOLS:
        raise ConfigError(unknown_name(protocol, 'protocols', PROTOCOLS))
    if like not in SETS:
        raise ConfigError(unknown_name(like, 'data sets of the protocols', SETS))
    path = find_config(configs / f'{protocol}_vit-b16_{like}.py')
    if not path.is_file():
        path = find_config(configs / f'{protocol}_vit-b16_{_INSTEAD.get(like, like)}.py')
    return load_config(str(path))


def plan(
    cfg: Config, dataset: str, images: int | None, protocols: Mapping[str, Config], parts: Sequence[str]
) -> list[Trial]:
    """The runs of an ablation: of the config, of each choice of each protocol, and of all choices of each.

    Equal configs are one cell.

    Args:
        cfg: As :func:`vlm_dense.comparison.dense.read_cell` gives it.
        dataset: Name for the files.
        images: Number of images, evenly chosen; None: all.
        protocols: Name -> its config.
        parts: Names of choices, or :data:`ALL`.

    Raises:
        ConfigError: no such choice.
    """
    known = {part.name: part for part in PARTS}
    for name in parts:
        if name not in (*known, ALL):
            raise ConfigError(unknown_name(name, 'choices', (*known, ALL)))
    own = make_cell('own', dataset, cfg, images)
    cells, trials = {own.key: own}, [Trial('own', 'own', '', own)]
    for name in parts:
        for protocol, other in protocols.items():
            some = [p for p in (PARTS if name == ALL else [known[name]]) if _differs(p, cfg, other)]
            text = '' if name == ALL else _text(known[name], other)
            if not some:
                trials.append(Trial(name, protocol, text, None))
                continue
            changed = copy.deepcopy(cfg)
            for part in some:
                part.put(changed, copy.deepcopy(part.get(other)))
            cell = make_cell(f'{name}-{protocol}', dataset, changed, images)
            trials.append(Trial(name, protocol, text, cells.setdefault(cell.key, cell)))
    return trials


def _differs(part: Part, cfg: Config, other: Config) -> bool:
    return part.get(other) not in (_ABSENT, part.get(cfg))


def _text(part: Part, cfg: Config) -> str:
    value = part.get(cfg)
    return _ABSENT if value == _ABSENT else part.text(value)


# --- report ---------------------------------------------------------------------------------------------------


def rows_of(trials: Sequence[Trial], out: Path, failed: Mapping[Cell, str]) -> list[dict[str, Any]]:
    """A row each trial: ``choice``, ``protocol``, ``value``, ``mIoU``, ``change`` to the config's own, ``state``.

    ``state`` is 'run', 'same' (the config has the value itself), 'absent' (the protocol has no such choice) or why it
    failed.
    """
    own = result_at(trials[0].cell.file(out, 'results')) or {}
    rows = []
    for trial in trials:
        row = dict(choice=trial.choice, protocol=trial.protocol, value=trial.text, mIoU=None, change=None)
        if trial.cell is None:
            row['state'] = 'absent' if trial.text == _ABSENT else 'same'
        elif (result := result_at(trial.cell.file(out, 'results'))) is None:
            row['state'] = next((why for cell, why in failed.items() if cell.key == trial.cell.key), 'not run')
        else:
            row |= dict(mIoU=result['mIoU'], state='run')
            if own.get('mIoU') is not None and result['mIoU'] is not None:
                row['change'] = result['mIoU'] - own['mIoU']
        rows.append(row)
    return rows


def markdown(rows: Sequence[Mapping[str, Any]], config: str, images: str, like: str, command: str) -> str:
    """The table, a line a choice and a column a protocol, with its command, what failed and what moves most."""
    own, *others = rows
    protocols = list(dict.fromkeys(row['protocol'] for row in others))
    value = 'not run' if own['mIoU'] is None else f'{own["mIoU"]:.1f}'
    lines = [f'{config}, {images}: mIoU {value}', '', f'| choice | {" | ".join(protocols)} |']
    lines.append(f'|{"---|" * (len(protocols) + 1)}')
    for choice in dict.fromkeys(row['choice'] for row in others):
        found = {row['protocol']: row for row in others if row['choice'] == choice}
        lines.append(f'| {choice} | {" | ".join(_cell(found[p]) for p in protocols)} |')
    lines += ['', f'`{command}`', '', f'- the settings of each protocol are those for {like}; =: as in the config']
    failed = {(row['choice'], row['protocol']): row['state'] for row in others if _why(row)}
    lines += [f'- {choice} of {protocol}: {why}' for (choice, protocol), why in failed.items()]
    moved = [row for row in others if row['change'] is not None and row['choice'] != ALL]
    if moved:
        most = max(moved, key=lambda row: abs(row['change']))
        lines.append(f'- {most["choice"]} of {most["protocol"]} moves most: {most["change"]:+.1f}')
    return '\n'.join([*lines, ''])


def _why(row: Mapping[str, Any]) -> bool:
    return row['state'] not in ('run', 'same', 'absent')


def _cell(row: Mapping[str, Any]) -> str:
    if row['state'] in ('same', 'absent'):
        return '=' if row['state'] == 'same' else '-'
    change = 'failed' if row['change'] is None else f'{row["change"]:+.1f}'
    return f'{change} ({row["value"]})' if row['value'] else change
