"""Cells of a comparison: a method on a data set, by a protocol, with a number of shots and a seed."""

from __future__ import annotations

import copy
import functools
import hashlib
import inspect
import pprint
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mmengine.runner import Runner

from vlm_dense.classification.datasets import SETS, is_multi_label, sentence_of
from vlm_dense.comparison.drawn import PAIRS, dicts, with_pairs
from vlm_dense.comparison.origin import code_digest, imports_digest, weights_digest
from vlm_dense.comparison.protocols import PROTOCOLS
from vlm_dense.comparison.protocols.protocol import Run
from vlm_dense.comparison.recipes import changed, image_sets, of_tests, recipe_options, test_options
from vlm_dense.datasets.placeholders import of_tasks
from vlm_dense.engine.configs.names import find_config, list_configs
from vlm_dense.engine.runner.launch import load_config
from vlm_dense.errors import ConfigError, unknown_name
from vlm_dense.vocabulary.templates import read_templates

_OF_TRAINING = ('train_dataloader', 'train_cfg', 'optim_wrapper', 'param_scheduler')
_OF_VALIDATION = ('val_dataloader', 'val_cfg', 'val_evaluator')
_ENSEMBLES = ('imagenet7', 'imagenet8', 'imagenet80')
_KEYS = {*inspect.signature(Runner.__init__).parameters, 'data_root', 'custom_imports', 'find_unused_parameters'}
_DROPPED_HOOKS = ('ZeroShotComparisonHook', 'PredictionPictureHook')  # they test or draw on top of what is asked


@dataclass(frozen=True)
class Cell:
    """One run of a comparison.

    Attributes:
        train: Config of the training, ``None`` if nothing is trained.
        tests: Test set name -> config of that test.
        selection: Data for selection by the training or the preparation: 'none', 'validation' or 'test'.
        tower: ``arch`` of the image tower.
        labels: Of the training images: 'given', 'guessed' by CLIP, or 'none' where nothing is trained on images.
    """

    method: str
    dataset: str
    protocol: str
    shots: int
    seed: int
    train: dict | None = field(hash=False)
    tests: dict[str, dict] = field(hash=False)
    selection: str
    tower: str
    labels: str

    def __str__(self) -> str:
        return f'{self.method}, {self.dataset}, {self.protocol}, {self.shots} shots, seed {self.seed}'

    @functools.cached_property
    def folder(self) -> str:
        """Name of the folder of the training: the same for what trains alike, and for nothing else.

        Tests without training share a folder if they differ in their test sets only. Other weights in the files that
        the config names, and other code, make another folder.
        """
        alike = self.train or {**next(iter(self.tests.values())), 'test_dataloader': None}
        return f'{self.method}_{self.dataset}-{_digest((alike, *self.origin.values()))}'

    @functools.cached_property
    def origin(self) -> dict[str, str]:
        """Digests of the inputs of the results besides the config: ``weights``, ``code``, and ``imports`` if any."""
        cfg = self.train or next(iter(self.tests.values()))
        imports = imports_digest(cfg)
        return dict(weights=weights_digest(cfg), code=code_digest(), **(dict(imports=imports) if imports else {}))

    @functools.cached_property
    def files(self) -> dict[str, str]:
        """Test set name -> name, without suffix, of the files of that test; another config has another name."""
        return {name: f'test_{name}-{_digest(cfg)}' for name, cfg in self.tests.items()}


def _digest(cfg) -> str:
    return hashlib.sha256(pprint.pformat(cfg, sort_dicts=True).encode()).hexdigest()[:10]


def plan(
    configs: Path,
    methods: list[str],
    datasets: list[str],
    protocols: list[str],
    shots: list[int],
    seeds: list[int],
    options: dict | None = None,
) -> list[Cell]:
    """All cells, those of one method and data set together.

    Args:
        configs: Folder of ``<method>_<dataset>.py``. A set of CoOp's without such a file takes
            ``<method>_imagenet.py`` with the set's name and template instead of ImageNet's, a drawn set
            ``<method>_shapes.py``, see :func:`with_pairs`.
        options: As of ``--cfg-options``, for every config.

    Raises:
        ConfigError: a method or protocol that does not exist, with the nearest ones; shots below 1.
    """
    for protocol in protocols:
        if protocol not in PROTOCOLS:
            raise ConfigError(unknown_name(protocol, 'protocols', PROTOCOLS))
    if min(shots) < 1:
        raise ConfigError(f'--shots must be at least 1, found {min(shots)}.')
    return [
        cell
        for method in methods
        for dataset in datasets
        for protocol in protocols
        for count in (shots if PROTOCOLS[protocol].has_shots else [0])
        for seed in seeds
        for cell in make_cells(method_config(configs, method, dataset), method, dataset, protocol, count, seed, options)
    ]


def make_cells(
    cfg: dict, method: str, dataset: str, protocol: str, shots: int, seed: int, options: dict | None = None
) -> list[Cell]:
    """The cells of a method on a data set, one for each training that the protocol asks for.

    Args:
        cfg: Config of the method, as it is read from the file.
        method, dataset, protocol, seed: Of the cells.
        shots: Of the cells; 0 for all images.
        options: Dotted key -> value, on top of the recipes of the config.
    """
    name, options = f'{method} on {dataset}', dict(options or {})
    if cfg.get('data_root') is None:
        options.pop('data_root', None)  # drawn, not read
    asked = changed(_with_set(cfg, dataset), recipe_options(cfg, dataset, protocol, shots), name)
    asked = changed(asked, options, name)  # which may move the data that a recipe names
    runs = PROTOCOLS[protocol].runs(asked, name)

    def for_test_set(other: str) -> dict[str, object]:
        return {**test_options(cfg, other, protocol, shots), **of_tests(options)}

    return [_cell(asked, run, method, dataset, protocol, shots, seed, for_test_set) for run in runs]


def _cell(
    cfg: dict,
    run: Run,
    method: str,
    dataset: str,
    protocol: str,
    shots: int,
    seed: int,
    for_test_set: Callable[[str], dict[str, object]],
) -> Cell:
    """A cell of one training.

    Every data set with ``shots`` gets shots and seed. Nothing is tested but what the cell asks for, and there is no
    validation unless the config keeps the best weights by it.
    """
    cfg = {key: value for key, value in copy.deepcopy(cfg).items() if key in _KEYS}
    for node in dicts(cfg):
        if shots and node.get('top_k') is not None:  # of labels that CLIP guesses, as many as others are given
            node['top_k'] = shots
        if node.get('shots') is not None:  # of a data set, or of a head that keeps or draws images
            node['shots'] = shots
            if 'seed' in node or str(node.get('type')).endswith('Dataset'):
                node['seed'] = seed
    cfg['randomness'] = dict(cfg.get('randomness') or {}, seed=seed)
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if hook['type'].split('.')[-1] not in _DROPPED_HOOKS]
    cfg['custom_hooks'] = [*hooks, dict(type='vlm_dense.CostHook')]
    cfg['visualizer'] = dict(type='Visualizer', vis_backends=[])
    chosen_on = selection(cfg)
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if not checkpoint.get('save_best'):
        cfg.update(dict.fromkeys(_OF_VALIDATION))
    for leaf in _leaves(cfg):
        leaf.update(run.data)
    test = {**cfg, **dict.fromkeys((*_OF_TRAINING, *_OF_VALIDATION))}
    tests = {}
    for name, change in run.tests.items():
        tests[name] = copy.deepcopy(test)
        for leaf in _leaves(tests[name]['test_dataloader']):
            leaf.update(change)
        if 'name' in change:
            tests[name] = _with_template(tests[name], dataset, change['name'])
            tests[name] = changed(tests[name], for_test_set(change['name']), f'{method} on {name}')
        if name in run.options:
            tests[name] = changed(tests[name], run.options[name], f'{method}, {name}')
    trained = cfg if cfg.get('train_cfg') is not None else None
    tower = str(cfg['model'].get('backbone', {}).get('arch'))
    return Cell(method, dataset, protocol, shots, seed, trained, tests, chosen_on, tower, labels_of(cfg))


def prepared_from(cfg: Mapping) -> dict[str, dict]:
    """Loaders, by name, of what ``PrepareHook`` reads."""
    hooks = (*(cfg.get('custom_hooks') or []), *(cfg.get('default_hooks') or {}).values())
    prepare = (hook for hook in hooks if hook and str(hook.get('type')).split('.')[-1] == 'PrepareHook')
    return {name: loader for hook in prepare for name, loader in (hook.get('data') or {}).items()}


def labels_of(cfg: dict) -> str:
    """Source of the labels of the training images, see :class:`Cell`."""
    if cfg.get('train_cfg') is None:
        return 'given' if 'support' in prepared_from(cfg) else 'none'
    kinds = {str(node.get('type')).split('.')[-1] for node in dicts(cfg['train_dataloader'])}
    if 'CaptionDataset' in kinds:
        return 'none'
    return 'guessed' if 'PseudoLabelDataset' in kinds else 'given'


def selection(cfg: dict) -> str:
    """Data on which a config selects hyper-parameters or weights: 'test', 'validation' or 'none'.

    It chooses weights if ``default_hooks.checkpoint`` has ``save_best``, and hyper-parameters if its ``PrepareHook``
    has ``search`` data.
    """
    loaders = [prepared_from(cfg).get('search')]
    if ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('save_best'):
        loaders.append(cfg.get('val_dataloader'))
    loaders = [loader for loader in loaders if loader]
    splits = {leaf.get('split') for leaf in _leaves(cfg['test_dataloader'])}
    if any(leaf.get('split') in splits for loader in loaders for leaf in _leaves(loader)):
        return 'test'
    return 'validation' if loaders else 'none'


@functools.cache
def _read(path: Path) -> dict:
    cfg = load_config(str(path))._cfg_dict.to_dict()
    for node in dicts(cfg):
        if 'datasets' in node and 'tasks' in node:
            node['datasets'] = of_tasks(node['datasets'], node['tasks'])
    return cfg


def method_config(folder: Path, method: str, dataset: str) -> dict:
    """The config of a method for a data set, as :func:`plan` finds it.

    Raises:
        ConfigError: there is none; names what there is.
    """
    if (path := find_config(folder / f'{method}_{dataset}.py')).is_file():
        return _read(path)
    like_imagenet = dataset in SETS and not is_multi_label(dataset)
    if like_imagenet and (path := find_config(folder / f'{method}_imagenet.py')).is_file():
        return _read(path)
    if dataset in PAIRS and (path := find_config(folder / f'{method}_shapes.py')).is_file():
        return with_pairs(_read(path), dataset)
    configs = list_configs(folder)
    known = [p.stem.removesuffix(f'_{dataset}') for p in configs if p.stem.endswith(f'_{dataset}')]
    if not known and dataset not in (*SETS, *PAIRS):
        sets = {p.stem.split('_', 1)[-1] for p in configs if '_' in p.stem} | {*SETS, *PAIRS}
        raise ConfigError(unknown_name(dataset, f'data sets with a config in {folder}', sets))
    like = '_imagenet' if like_imagenet else '_shapes' if dataset in PAIRS else None
    known += [p.stem.removesuffix(like) for p in configs if like and p.stem.endswith(like)]
    raise ConfigError(unknown_name(method, f'methods with a config for {dataset} in {folder}', set(known)))


def _with_set(cfg: dict, new: str) -> dict:
    """Another of CoOp's sets, with its template, instead of ImageNet; a config of the set itself as it is."""
    cfg = copy.deepcopy(cfg)
    sets = image_sets(cfg)
    if new not in SETS or not sets or new in {node['name'] for node in sets}:
        return cfg
    for node in sets:
        node['name'] = new
    return _with_template(cfg, 'imagenet', new)


def _with_template(cfg: dict, old: str, new: str) -> dict:
    """CoOp's sentence for one set instead of that for another.

    Outside of ImageNet also instead of ImageNet's lists, and the file of sentences that has the set's name.
    """
    old_sentence, sentence = sentence_of(old), sentence_of(new)
    far = not new.startswith('imagenet')  # its variants have its classes
    lists = {name: read_templates(name) for name in _ENSEMBLES} if far else {}

    def replaced(node):
        if node == old_sentence:
            return sentence
        if isinstance(node, str):
            file = node.removesuffix(f'/{old}.json')
            return [sentence] if node in lists else f'{file}/{new}.json' if far and file != node else node
        if isinstance(node, dict):
            return {key: replaced(value) for key, value in node.items()}
        if isinstance(node, (list, tuple)):
            return [sentence] if tuple(node) in lists.values() else type(node)(map(replaced, node))
        return node

    return dict(cfg, **{key: replaced(cfg[key]) for key in ('model', 'train_dataloader', 'custom_hooks') if key in cfg})


def _leaves(loader) -> list[dict]:
    """Data sets inside of a loader, or of anything else, that wrap no other."""
    found = [node['dataset'] for node in dicts(loader) if isinstance(node.get('dataset'), dict)]
    return [dataset for dataset in found if not isinstance(dataset.get('dataset'), dict)]
