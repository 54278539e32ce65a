"""Checks of the values of a config before anything is built, so that a mistake is named with its key."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence

from mmengine.config import Config
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS, MODELS, OPTIMIZERS

from vlm_dense.datasets.config_checks import LOADERS, leaves
from vlm_dense.engine.messages import arguments_of, unknown_argument
from vlm_dense.errors import ClassNamesError, ConfigError, first_of
from vlm_dense.registry import registered
from vlm_dense.vocabulary.class_names import check_names, read_class_names


def _heads(model: dict, path: str = 'model') -> Iterator[tuple[str, dict]]:
    """(config key, config) of every head inside a model that says for how many classes it is."""
    for key, value in model.items():
        for i, one in enumerate(value if isinstance(value, (list, tuple)) else [value]):
            if isinstance(one, dict) and key != 'rpn_head':
                here = f'{path}.{key}.{i}' if isinstance(value, (list, tuple)) else f'{path}.{key}'
                if key.endswith('head') and isinstance(one.get('num_classes'), int):
                    yield here, one
                yield from _heads(one, here)


def check_class_count(cfg: Config, names: Sequence[str] | None) -> None:
    """Compare ``num_classes`` of every head of ``cfg.model`` with the names of the data set.

    Raises:
        ClassNamesError: they differ; names the config keys.
    """
    if names is None:
        return
    unlike = [(key, head['num_classes']) for key, head in _heads(cfg.model) if head['num_classes'] != len(names)]
    if unlike:
        found = ', '.join(f'{key}.num_classes={count}' for key, count in unlike)
        remedy = ' '.join(f'{key}.num_classes={len(names)}' for key, _ in unlike)
        raise ClassNamesError(
            f'The data set has {len(names)} classes ({", ".join(names[:3])}, ...), but {found}. '
            f'Use --cfg-options {remedy}, or name the classes to use in metainfo of the data sets.'
        )


def use_classes(cfg: Config, names: Sequence[str]) -> None:
    """Set these classes in all data sets of a config, and their number in all heads, for ``--classes``.

    Args:
        cfg: The config, which is changed.
        names: In label order; or a single file of them, a class a line.

    Raises:
        ClassNamesError: names that no model could use; a data set with other classes.
        ConfigError: a model that says its own ``class_names``.
    """
    if len(names) == 1 and (os.path.isfile(names[0]) or names[0].endswith('.txt')):
        names = [' '.join(one.split()) for entry in read_class_names(names[0]) for one in entry[:1]]
    names = tuple(names)
    check_names(names)
    if cfg.model.get('class_names'):
        raise ConfigError('--classes beside model.class_names of the config: leave one of them out.')
    for loader in LOADERS:
        if not cfg.get(loader):
            continue
        for key, dataset in leaves(cfg[loader]['dataset'], f'{loader}.dataset'):
            own = registered(ROOT_DATASETS, dataset['type'])
            known = getattr(own, 'METAINFO', {}).get('classes') or names
            absent = [name for name in names if name not in known]
            if absent:
                raise ClassNamesError(
                    f'--classes: {key} is a {own.__name__} and has no class {absent[0]!r}; its classes are '
                    f'{first_of(known, 10)}. For data of your own take one of '
                    'the configs *_own-masks.py, *_own-coco.py and *_own-folders.py.'
                )
            dataset['metainfo'] = dict(dataset.get('metainfo') or {}, classes=names)
    count_classes(cfg, len(names))


def count_classes(cfg: Config, number: int) -> None:
    """Set the number of classes in all heads of a config that have one."""
    for _, head in _heads(cfg.model):
        head['num_classes'] = number


# --- values ---------------------------------------------------------------------------------------------------


def check_values(cfg: Config, loaders: Sequence[str] = LOADERS) -> None:
    """Check whether numbers of a config are in their range, where nothing else checks them or names their key.

    Raises:
        ConfigError: names the key.
    """
    for name in loaders:
        loader = cfg.get(name)
        if not isinstance(loader, dict):
            continue
        for key in ('persistent_workers', 'prefetch_factor'):
            if loader.get(key) and not loader.get('num_workers', 0):
                raise ConfigError(f'{name}.{key} needs {name}.num_workers above 0, found 0. Leave {key} out.')
        for _, dataset in leaves(loader.get('dataset') or {}, name):
            names = (dataset.get('metainfo') or {}).get('classes')
            if isinstance(names, str) and not os.path.isfile(names):  # else a list of names, a line each
                check_names(names)
    _check_hooks(cfg)
    optimizer = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if isinstance(optimizer.get('type'), str):
        registered(OPTIMIZERS, optimizer['type'])  # mmengine says nothing of an unknown one
    model = cfg.get('model') or {}
    if 'type' not in model:
        raise ConfigError(f'{cfg.filename} has no model with a type. A config needs model=dict(type=...).')
    kind = registered(MODELS, model['type'])
    if any(base.__name__ == 'BaseSegmentor' for base in getattr(kind, '__mro__', ())):  # mmseg's, not imported here
        needed = {'data_preprocessor': "dict(type='SegDataPreProcessor', ...)", 'test_cfg': "dict(mode='whole')"}
        given = dict(model, data_preprocessor=model.get('data_preprocessor') or cfg.get('data_preprocessor'))
        for key, example in needed.items():
            if given.get(key) is None:
                raise ConfigError(f'model has no {key}, which a segmentor needs. Give it one, as {key}={example}.')
    if hasattr(kind, 'check_config'):
        kind.check_config(model)


def _check_hooks(cfg: Config) -> None:
    """Tell misspelt arguments of hooks, which some hooks pass on to functions that are called much later."""
    for hook in (*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])):
        kind = isinstance(hook, dict) and hook.get('type') and registered(HOOKS, hook['type'])
        for argument in set(hook) - arguments_of(kind) - {'type', 'priority'} if kind else ():
            if difflib.get_close_matches(argument, arguments_of(kind), cutoff=0.8):
                raise ConfigError(unknown_argument(kind.__name__, kind, argument))
