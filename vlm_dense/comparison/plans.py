"""Plan of a comparison, cell by cell, as data: without data sets, weights or models."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

from mmengine.registry import MODELS

from vlm_dense.classification.datasets import SETS
from vlm_dense.comparison.cells import Cell, make_cells, method_config, prepared_from
from vlm_dense.comparison.drawn import dicts
from vlm_dense.comparison.recipes import image_sets, is_published
from vlm_dense.errors import ConfigError
from vlm_dense.registry import registered
from vlm_dense.vocabulary.templates import read_templates

_SENTENCES = ('templates', 'template', 'prompt_template', 'after')
_TEXTS = ('words', 'descriptors', 'sentences')
_LENGTHS = ('epochs', 'passes')
_OF_DATA = ('name', 'classes', 'data_root', 'seed')
_NOT_SHOWN = ('custom_hooks', 'visualizer', 'val_', 'test_evaluator', 'log_', 'env_', 'default_scope', 'data_root')


def plans(cells: list[Cell], configs: Path) -> list[dict]:
    """Plan of each cell, see :func:`tell`.

    Args:
        cells: Of :func:`vlm_dense.comparison.cells.plan`.
        configs: The folder that they are from.

    Raises:
        ConfigError: a part with a sentence or a schedule that its config leaves to the constructor's default.
    """
    return [tell(cell, configs) for cell in cells]


def tell(cell: Cell, configs: Path) -> dict:
    """Plan of a cell: plain values, as for JSON.

    Returns:
        ``method``, ``dataset``, ``protocol``, ``shots``, ``seed`` and ``tower`` of the cell; ``published``, whether
        the paper gives these settings; ``sentences``, key of the config -> sentences; ``class_names``, where they come
        from; ``training`` (``length``, ``unit``, ``batch``, ``optimizer``, ``rates`` and ``warm_up`` by group of
        parameters), ``None`` if nothing is trained; ``fitted``, options of a head that is fitted; ``augmentation``;
        ``size`` of the input; ``tests``, name -> data; ``test_changes``, test -> settings of model and test images
        that are not those of the training; ``search``, loader -> split and images of what is searched on;
        ``selection`` and ``labels`` of the cell; ``differs``, key -> values in the method's ImageNet config and here.
    """
    cfg = cell.train or next(iter(cell.tests.values()))
    what = f'{cell.method} on {cell.dataset}'
    asked = method_config(configs, cell.method, cell.dataset)
    reference = _reference(configs, cell.method, cell.shots, cell.seed)
    return dict(
        method=cell.method,
        dataset=cell.dataset,
        protocol=cell.protocol,
        shots=cell.shots,
        seed=cell.seed,
        tower=cell.tower,
        published=_status(asked, cell),
        sentences=_sentences(cfg, what, strict=bool(image_sets(cfg))),
        class_names=_class_names(cfg),
        training=_training(cell.train, what),
        fitted=_fitted(cfg, what),
        augmentation=_augmentation(cfg),
        size=_size(cfg),
        tests={name: _leaf_names(test.get('test_dataloader')) for name, test in cell.tests.items()},
        test_changes=_test_changes(cfg, cell.tests),
        search={name: _images(loader) for name, loader in prepared_from(cfg).items() if name != 'support'},
        selection=cell.selection,
        labels=cell.labels,
        differs={} if reference is None else _differences(reference, cfg),
    )


# --- the parts of a plan --------------------------------------------------------------------------------------------


def _status(asked: dict, cell: Cell) -> str:
    own = {node['name'] for node in image_sets(asked.get('test_dataloader'))}
    if not own:
        return 'drawn here, in no paper'
    if is_published(asked, cell.dataset, cell.protocol, cell.shots):
        return 'published'
    of_imagenet = cell.dataset in SETS and cell.dataset not in own
    return 'as on ImageNet (not published)' if of_imagenet else 'not published'


@functools.lru_cache(maxsize=256)
def _reference(configs: Path, method: str, shots: int, seed: int) -> dict[str, object] | None:
    """Settings of the method's ImageNet config with the shots and the seed of a cell; ``None`` if there is none."""
    try:
        cfg = method_config(configs, method, 'imagenet')
    except ConfigError:
        return None
    cfg = {key: value for key, value in cfg.items() if key != 'recipes'}
    found, *_ = make_cells(cfg, method, 'imagenet', 'few-shot', shots, seed)
    return _settings(found.train or next(iter(found.tests.values())))


def _parts(node, path: str = '') -> Iterator[tuple[str, dict]]:
    """(dotted key, config) of all parts of vlm_dense inside of a config."""
    if isinstance(node, Mapping):
        if str(node.get('type')).startswith('vlm_dense.'):
            yield path, node
        items = node.items()
    elif isinstance(node, (list, tuple)):
        items = enumerate(node)
    else:
        return
    for key, value in items:
        yield from _parts(value, f'{path}.{key}' if path else str(key))


@functools.cache
def _parameters(kind: str | type) -> dict[str, inspect.Parameter]:
    """Arguments of the constructor of a ``type``, with those that it hands on to the constructors it extends."""
    try:
        kind = registered(MODELS, kind)
    except ConfigError:
        return {}
    found: dict[str, inspect.Parameter] = {}
    for base in kind.__mro__ if inspect.isclass(kind) else ():
        if '__init__' in vars(base):
            own = inspect.signature(base.__init__).parameters
            found = {**own, **found}
            if not any(each.kind is inspect.Parameter.VAR_KEYWORD for each in own.values()):
                break
    return found


def _sentences(cfg: dict, what: str, strict: bool) -> dict[str, list[str]]:
    """Dotted key -> sentences, of the model and of the models that label its data.

    Args:
        strict: Refuse sentences that are only defaults of constructors: a comparison cannot replace them for
            another set.
    """
    found: dict[str, list[str]] = {}
    head = (cfg['model'].get('head') or {}).get('type')
    silent = head is not None and not getattr(registered(MODELS, head), 'text', True)
    for loader in ('model', 'train_dataloader'):
        for path, node in _parts(cfg.get(loader) or {}, loader):
            parameters = _parameters(node['type'])
            for name in (*_SENTENCES, *_TEXTS):
                if name not in parameters:
                    continue
                default = parameters[name].default
                if name not in node and default in (None, inspect.Parameter.empty):
                    continue
                if name not in node and strict and not (silent and loader == 'model'):
                    raise ConfigError(
                        f'{what}: {path} ({node["type"]}) leaves {name} to the default {default!r}, where no '
                        f'comparison can put the sentence of another set. Say {path}.{name} in the config.'
                    )
                found[f'{path}.{name}'] = _as_sentences(node.get(name, default))
            if ('num_contexts' in parameters or 'num_contexts' in node) and not node.get('words'):
                count = node['num_contexts'] if 'num_contexts' in node else parameters['num_contexts'].default
                found[f'{path}.num_contexts'] = [f'{count} learned vectors']
    if strict and not silent and not any(key.startswith('model.text_prompt.') for key in found):
        raise ConfigError(
            f'{what}: a plan cannot see the sentences of {cfg["model"]["text_prompt"]["type"]}. Its constructor needs '
            f'one of the arguments {", ".join((*_SENTENCES, *_TEXTS))} or num_contexts.'
        )
    return found


def _as_sentences(value) -> list[str]:
    if isinstance(value, Mapping):
        return [f'{len(value)} classes in the config']
    if isinstance(value, str) and '{}' not in value:
        try:
            return [f'{value}: {len(read_templates(value))} sentences']
        except ConfigError:
            return [value]  # words, or a file
    return [value] if isinstance(value, str) or value is None else list(value)


def _class_names(cfg: dict) -> str:
    given = cfg['model'].get('class_names')
    if given:
        return given if isinstance(given, str) else f'{len(given)} names of the config'
    names = _leaf_names(cfg.get('train_dataloader') or cfg.get('test_dataloader'))
    return f'data set: {names}' if names else 'data set'


def _training(cfg: dict | None, what: str) -> dict | None:
    if cfg is None:
        return None
    loop, wrapper = cfg['train_cfg'], cfg.get('optim_wrapper') or {}
    unit = 'epochs' if 'max_epochs' in loop else 'iterations'
    length, optimizer = loop.get(f'max_{"epochs" if unit == "epochs" else "iters"}'), wrapper.get('optimizer') or {}
    if length is None or optimizer.get('lr') is None:
        raise ConfigError(
            f'{what}: the config says neither how long the training is nor its rate, or only one of them. Expected '
            f'train_cfg.max_epochs or max_iters and optim_wrapper.optimizer.lr, found {loop} and {optimizer}.'
        )
    groups = {'': {}} | dict((wrapper.get('paramwise_cfg') or {}).get('custom_keys') or {})
    rates = {key or 'all': optimizer['lr'] * group.get('lr_mult', 1.0) for key, group in groups.items()}
    warm = {
        key or 'all': _warm_up(cfg.get('param_scheduler') or [], rates[key or 'all'], group, what)
        for key, group in groups.items()
    }
    return dict(
        length=length,
        unit=unit,
        batch=cfg['train_dataloader'].get('batch_size'),
        optimizer=optimizer['type'],
        rates=rates,
        warm_up=warm,
    )


def _warm_up(schedulers, rate: float, group: Mapping, what: str) -> str:
    """Of a group of parameters with this rate."""
    for scheduler in [schedulers] if isinstance(schedulers, Mapping) else schedulers:
        kind = str(scheduler['type']).split('.')[-1]
        unit = 'epochs' if scheduler.get('by_epoch', True) else 'iterations'
        if kind == 'ConstantLR':
            return f'{scheduler["end"] - 1 - scheduler.get("begin", 0)} {unit} at {rate * scheduler["factor"]:.3g}'
        if kind == 'LinearLR':
            return f'{scheduler["end"]} {unit}, linear'
        if kind == 'WarmUpCosineLR':
            length = group.get('warmup', scheduler.get('warmup', 1))
            return f'{length} {unit} at {scheduler.get("warmup_lr", 1e-5):.3g}'
        if kind == 'WarmUpPolyLR':
            return f'{scheduler.get("warmup", 0)} {unit}, linear'
        if kind == 'RepeatedCosineLR':
            return f'1 {unit} at {scheduler.get("warm_up_lr", 1e-5):.3g}'
        if kind not in ('CosineAnnealingLR', 'PolyLR', 'MultiStepLR'):
            raise ConfigError(
                f'{what}: a plan cannot see the warm-up of the schedule {scheduler["type"]}. Take one of mmengine, '
                'vlm_dense.WarmUpCosineLR or vlm_dense.WarmUpPolyLR.'
            )
    return 'none'


def _fitted(cfg: dict, what: str) -> dict:
    """Options of a head that is fitted or searched before the test."""
    head = cfg['model'].get('head') or {}
    for name in _LENGTHS:
        if head and name in _parameters(head['type']) and name not in head:
            raise ConfigError(f'{what}: model.head leaves {name} to its default. Say model.head.{name} in the config.')
    return {key: _plain(value) for key, value in head.items()} if prepared_from(cfg) else {}


def _pipelines(node) -> list[list]:
    return [each['pipeline'] for each in dicts(node) if each.get('pipeline')]


def _augmentation(cfg: dict) -> list[str]:
    """Transforms of the training images, or of those that a cache is made of, in words."""
    loader = cfg.get('train_dataloader') or prepared_from(cfg).get('support')
    for pipeline in _pipelines(loader) if loader else ():
        return [each for step in pipeline for each in _in_words(step)]
    return []


def _in_words(step: Mapping) -> list[str]:
    if 'transforms' in step:
        return [each for inner in step['transforms'] for each in _in_words(inner)]
    kind = str(step['type']).split('.')[-1]
    if kind.startswith(('Load', 'Pack', 'DrawScene')):
        return []
    options = ', '.join(f'{key}={value}' for key, value in step.items() if key != 'type')
    return [f'{kind}({options})']


def _size(cfg: dict) -> int | tuple | None:
    """Side of the test images."""
    for pipeline in _pipelines(cfg.get('test_dataloader')):
        sizes = [each['size'] for each in dicts(pipeline) if each.get('size')]
        if sizes:
            return sizes[-1]
    return None


def _leaves(loader) -> Iterator[dict]:
    return (node for node in dicts(loader) if str(node.get('type')).endswith('Dataset') and 'dataset' not in node)


def _leaf_names(loader) -> str:
    found = []
    for node in _leaves(loader):
        words = [str(node.get('name') or str(node['type']).split('.')[-1])]
        words += [f'{key} {node[key]}' for key in ('classes', 'domain') if isinstance(node.get(key), str)]
        found.append(', '.join(words))
    return '; '.join(dict.fromkeys(found))


def _images(loader) -> str:
    found = []
    for node in dicts(loader):
        if str(node.get('type')).endswith('Dataset') and 'split' in node:
            shots = node.get('shots')
            found.append(f'{node["split"]}, {"all images" if shots is None else f"{shots} of each class"}')
    return '; '.join(dict.fromkeys(found)) or 'as the config says'


# --- what differs from ImageNet -------------------------------------------------------------------------------------


def _settings(cfg: dict) -> dict[str, object]:
    """Dotted key -> value of what a method is run with."""
    kept = {key: value for key, value in cfg.items() if not key.startswith(_NOT_SHOWN)}
    return {key: value for key, value in _flat(kept) if key.split('.')[-1] not in _OF_DATA}


def _test_changes(cfg: dict, tests: dict[str, dict]) -> dict[str, dict]:
    found = {}
    for name, test in tests.items():
        changes = {key: new for key, (_, new) in _differences(_settings(cfg), test).items()}
        changes = {key: new for key, new in changes.items() if key.startswith(('model.', 'test_dataloader.'))}
        found |= {name: changes} if changes else {}
    return found


def _differences(old: dict[str, object], cfg: dict) -> dict[str, list]:
    """Dotted key -> [value in the reference, value here] of the settings that differ; ``None`` where there is none."""
    new = _settings(cfg)
    keys = [*old, *(key for key in new if key not in old)]
    return {key: [old.get(key), new.get(key)] for key in keys if old.get(key) != new.get(key)}


def _flat(node, path: str = '') -> Iterator[tuple[str, object]]:
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from _flat(value, f'{path}.{key}' if path else str(key))
    elif isinstance(node, (list, tuple)) and any(isinstance(value, Mapping) for value in node):
        for index, value in enumerate(node):
            yield from _flat(value, f'{path}.{index}')
    else:
        yield path, _plain(node)


def _plain(value):
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


# --- as text --------------------------------------------------------------------------------------------------------


def as_table(told: list[dict]) -> str:
    """A row for each cell; cells that differ in their seed alone share one."""
    rows: dict[tuple, list[int]] = {}
    for each in told:
        rows.setdefault(tuple(_columns(each).items()), []).append(each['seed'])
    titles = None
    lines = []
    for row, seeds in rows.items():
        columns = dict(row, seeds=' '.join(map(str, seeds)))
        if titles is None:
            titles = list(columns)
            lines += ['| ' + ' | '.join(titles) + ' |', '|' + '---|' * len(titles)]
        lines.append('| ' + ' | '.join(str(columns[title]).replace('|', '/') for title in titles) + ' |')
    missing = sum('not published' in each['published'] for each in told)
    return '\n'.join([*lines, '', f'{len(told)} cells, {missing} of them with settings that no paper gives.'])


def _columns(each: dict) -> dict[str, str]:
    training = each['training']
    by_group = dict.fromkeys(('rate', 'warm-up'), '-')
    length = batch = '-'
    if training:
        length, batch = f'{training["length"]} {training["unit"]}', training['batch']
        by_group = {
            title: ', '.join(f'{value}' if key == 'all' else f'{key}: {value}' for key, value in training[name].items())
            for title, name in (('rate', 'rates'), ('warm-up', 'warm_up'))
        }
    return dict(
        method=each['method'],
        set=each['dataset'],
        protocol=each['protocol'],
        shots=each['shots'],
        tower=each['tower'],
        sentence='; '.join(' / '.join(map(str, lines)) for lines in each['sentences'].values()) or '-',
        names=each['class_names'],
        length=length,
        batch=batch,
        **by_group,
        augmentation=', '.join(each['augmentation']) or '-',
        size=each['size'],
        search='; '.join(f'{name}: {images}' for name, images in each['search'].items()) or '-',
        chosen_on=each['selection'],
        differs='; '.join(f'{key} {old!r} -> {new!r}' for key, (old, new) in each['differs'].items()) or '-',
        settings=each['published'],
    )
