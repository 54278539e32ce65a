"""Settings of papers for other sets, numbers of shots and protocols: the ``recipes`` of a config.

They are dicts in a dict with free keys. ``sets`` (names, or 'others': all but that of the config file), ``shots``
(numbers) and ``protocols`` (names) say where one holds: everywhere that they do not exclude. ``length`` is that of the
training, in epochs or iterations, whichever its loop counts; ``options`` change the config as ``--cfg-options`` does,
and ``{set}`` in them is the name of the set of the training.
Later ones come on top of earlier ones.

    recipes = {
        'few': dict(sets='others', shots=[2, 4], length=100),
        'flowers': dict(sets=['oxford_flowers'], options={'model.text_prompt.scale': 1.0}),
    }

Where a paper or its release gives the settings, says ``published``, a list of dicts with ``sets``, ``shots`` and
``protocols``: of everything else a plan says that it is not published.
"""

from __future__ import annotations

import copy

from mmengine.config import Config

from vlm_dense.comparison.drawn import dicts
from vlm_dense.datasets.placeholders import filled
from vlm_dense.engine.configs.files import change_config
from vlm_dense.errors import ConfigError, unknown_name

_WHERE = ('sets', 'shots', 'protocols')
_KEYS = (*_WHERE, 'length', 'options')


def recipe_options(cfg: dict, dataset: str, protocol: str, shots: int) -> dict[str, object]:
    """Dotted key -> value of what the recipes of a config change.

    Args:
        cfg: The config as it is read from the file, with the set that the file names.
        dataset: The set of the training.
        protocol, shots: Of the cell.

    Raises:
        ConfigError: a recipe with an unknown key.
    """
    own = {node['name'] for node in image_sets(cfg.get('test_dataloader'))}
    found: dict[str, object] = {}
    for name, recipe in (cfg.get('recipes') or {}).items():
        for key in recipe:
            if key not in _KEYS:
                raise ConfigError(unknown_name(key, f'keys of recipe {name!r}', _KEYS))
        if _holds(recipe, own, dataset, protocol, shots):
            found |= _lengthened(cfg, recipe['length']) if 'length' in recipe else {}
            found |= filled(recipe.get('options', {}), '{set}', dataset)
    return found


def is_published(cfg: dict, dataset: str, protocol: str, shots: int) -> bool:
    """Whether ``published`` of a config holds for a cell; arguments as of :func:`recipe_options`.

    Raises:
        ConfigError: an entry with an unknown key.
    """
    own = {node['name'] for node in image_sets(cfg.get('test_dataloader'))}
    for entry in cfg.get('published') or ():
        for key in entry:
            if key not in _WHERE:
                raise ConfigError(unknown_name(key, 'keys of published', _WHERE))
        if _holds(entry, own, dataset, protocol, shots):
            return True
    return False


def _holds(entry: dict, own: set[str], dataset: str, protocol: str, shots: int) -> bool:
    sets = entry.get('sets', [dataset])
    holds = dataset not in own if sets == 'others' else dataset in sets
    return holds and shots in entry.get('shots', [shots]) and protocol in entry.get('protocols', [protocol])


def test_options(cfg: dict, dataset: str, protocol: str, shots: int) -> dict[str, object]:
    """The same for a test set other than that of the training: what is said of sets, without the training."""
    of_sets = {name: recipe for name, recipe in (cfg.get('recipes') or {}).items() if 'sets' in recipe}
    return of_tests(recipe_options({**cfg, 'recipes': of_sets}, dataset, protocol, shots))


def of_tests(options: dict[str, object]) -> dict[str, object]:
    """The options that apply to a test without training."""
    return {key: value for key, value in options.items() if key.split('.')[0] in ('model', 'test_dataloader')}


def changed(cfg: dict, options: dict[str, object], name: str) -> dict:
    """A config with other values at dotted keys; ``name`` stands in messages."""
    whole = Config(copy.deepcopy(cfg))
    change_config(whole, options, name)
    return whole._cfg_dict.to_dict()


def image_sets(node) -> list[dict]:
    """The published sets of a config, or of a part of it."""
    return [each for each in dicts(node) if str(each.get('type')).endswith('ImageSetDataset')]


def _lengthened(cfg: dict, length: int) -> dict[str, object]:
    """A training of another length, its schedules with it."""
    loop = cfg['train_cfg']
    key = next(name for name in ('max_epochs', 'max_iters') if name in loop)
    options: dict[str, object] = {f'train_cfg.{key}': length}
    if loop.get('val_interval') == loop[key]:
        options['train_cfg.val_interval'] = length
    for i, scheduler in enumerate(cfg['param_scheduler']):
        for name in ('T_max', 'end'):
            if scheduler.get(name) == loop[key]:
                options[f'param_scheduler.{i}.{name}'] = length
    return options
