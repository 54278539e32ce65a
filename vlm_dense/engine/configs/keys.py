"""Misspelt keys of config files, which mmengine ignores silently, are reported with the nearest valid key."""

from __future__ import annotations

import ast
import difflib
import inspect
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import mmengine.runner
from mmengine.config import Config
from mmengine.config.lazy import LazyAttr, LazyObject
from torch.utils.data import DataLoader

from vlm_dense.engine.configs.components import READ_KEYS, component, takes_anything
from vlm_dense.engine.configs.names import bases
from vlm_dense.engine.messages import arguments_of
from vlm_dense.errors import ConfigError

_ALIKE = 0.8  # of difflib: 'clases' and 'classes'
_ANYWHERE = {'type', '_delete_', '_scope_', '_base_'}
_PIPELINES = {'train_pipeline', 'val_pipeline', 'test_pipeline'}  # inferencers read the last
_CUSTOM = {'lr_mult', 'decay_mult'}
_HOOKS = {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint', 'visualization'}
_HOOKS |= {'early_stopping', 'ema', 'sync_buffer', 'profiler', 'prepare'}
_LOOP = {'by_epoch', 'max_epochs', 'max_iters', 'val_begin', 'val_interval', 'dynamic_intervals', 'fp16'}
_PARAMWISE = {'custom_keys', 'lr_mult', 'num_layers', 'decay_rate', 'decay_type', 'bypass_duplicate'}
_PARAMWISE |= {'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'dwconv_decay_mult', 'flat_decay_mult'}
_PARAMWISE |= {'dcn_offset_lr_mult', 'reduction_factor', 'layer_decay_rate'}
_TEST = {
    'window_softmax',
    'mode',
    'stride',
    'crop_size',
    'threshold',
    'keep_logits',
    'window_multiple',
    'batch_size',
    'binary_thres',
}
_TEST |= {
    'subdivision_steps',
    'subdivision_num_points',
    'scale_factor',
    'panoptic',
    'panoptic_on',
    'semantic_on',
    'instance_on',
}
_TEST |= {
    'score_thr',
    'nms',
    'nms_pre',
    'nms_post',
    'max_per_img',
    'max_per_image',
    'min_bbox_size',
    'mask_thr_binary',
    'rpn',
    'rcnn',
}
_TEST |= {'iou_threshold', 'iou_thr', 'max_num', 'filter_low_score', 'conf_thr', 'mask_thr', 'filter_thr', 'kernel'}
_TEST |= {'sigma', 'update_thr', 'yolox_nms', 'with_nms', 'score_per_cls', 'local_maximum_kernel', 'topk', 'top_k'}
_TRAIN = {'num_points', 'oversample_ratio', 'importance_sample_ratio', 'assigner', 'sampler', 'rpn', 'rcnn'}
_TRAIN |= {
    'reg_assigner',
    'ga_assigner',
    'ga_sampler',
    'initial_assigner',
    'rpn_proposal',
    'allowed_border',
    'pos_weight',
    'debug',
    'mask_size',
    'nms_pre',
    'nms_post',
    'max_per_img',
}
_WORDS_OF_DATA = {'classes', 'palette', 'dataset_type', 'task_name', 'label_map', 'taxonomy'}


def _places() -> list[tuple[str, set[str], bool]]:
    """(pattern of a place, keys that are read there, whether others have no effect or fail) of dicts without a type."""
    loader = {*inspect.signature(DataLoader.__init__).parameters} - {'self'}
    loader |= {'num_batch_per_epoch', 'diff_rank_seed'}
    randomness = {*inspect.signature(mmengine.runner.set_random_seed).parameters}
    return [
        ('env_cfg', {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'}, True),
        ('env_cfg/mp_cfg', {'mp_start_method', 'opencv_num_threads'}, True),
        ('env_cfg/dist_cfg', {'backend', 'init_backend', 'timeout', 'port'}, False),
        ('randomness', randomness, True),
        ('(train|val|test)_dataloader', loader, True),
        ('auto_scale_lr', {'enable', 'base_batch_size'}, True),
        ('default_hooks', _HOOKS, False),
        ('(train|val|test)_cfg', _LOOP, False),
        ('.*/paramwise_cfg', _PARAMWISE, False),
        ('.*/custom_keys/[^/]*', _CUSTOM, False),
        ('(.*/)?metainfo', _WORDS_OF_DATA, False),
        ('model/(.*/)?test_cfg(/rpn|/rcnn)?', _TEST, False),
        ('model/(.*/)?train_cfg(/rpn|/rcnn)?', _TRAIN, False),
    ]


_BESIDE_TYPE = [
    ('optim_wrapper', {'constructor', 'paramwise_cfg', 'optimizer', 'loss_scale', 'dtype'}),
    ('param_scheduler(/\\d+)?', {'convert_to_iter_based', 'epoch_length', 'by_epoch'}),
    ('(default_hooks/[^/]*|custom_hooks/\\d+)', {'priority'}),
    ('model', {'train_cfg', 'test_cfg', 'init_cfg', 'data_preprocessor', 'pretrained'}),
    ('(train|val|test)_cfg', _LOOP),
    ('.*norm_cfg', {'requires_grad'}),
    ('model/(decode|auxiliary)_head(/\\d+)?', {'in_index', 'in_channels', 'input_transform'}),
    ('model/(.*/)?loss_cls', {'bg_cls_weight'}),
    ('model/(.*/)?dcn', {'deformable_groups'}),
    ('.*', {'init_cfg'}),
]
"""(pattern of a place, keys that its builder takes beside the arguments of the ``type``)."""


def check_keys(cfg: Config, path: str) -> None:
    """Refuse keys of a config that nothing reads and that resemble one that is read.

    At the top of a file any name may stand: variables, which other lines use. One that no line uses and that is spelt
    almost as a key of a config is a misspelt key. Inside, a dict with a ``type`` is compared with the arguments of that
    class, if it does not take any, and a dict without one with what mmengine reads there.

    Args:
        cfg: As read from ``path``.
        path: The config file.

    Raises:
        ConfigError: names the key and the one that was meant.
    """
    _check_top(cfg, path)
    places = [(re.compile(pattern), known, sure) for pattern, known, sure in _places()]
    scope = cfg.get('default_scope')
    for key in sorted(READ_KEYS & set(cfg)):
        _check(cfg._cfg_dict[key], (key,), path, scope if isinstance(scope, str) else None, places)


def _check_top(cfg: Config, path: str) -> None:
    unknown = [
        key
        for key, value in dict.items(cfg._cfg_dict)
        if key not in READ_KEYS | _PIPELINES and not isinstance(value, (LazyObject, LazyAttr))  # imports of pure Python
    ]
    alike = {key: near for key in unknown if (near := _alike(key, READ_KEYS))}
    used = _used_names(path) if alike else set()
    for key, near in alike.items():
        if key not in used:
            raise ConfigError(f'{path}: nothing reads {key!r}. Did you mean {near!r}?')


def _used_names(path: str) -> set[str]:
    """Names that the lines of a config and of its bases use."""
    names: set[str] = set()
    todo, seen = [Path(path)], set()
    while todo:
        file = todo.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        text = file.read_text(encoding='utf-8')
        tree = ast.parse(text) if file.suffix == '.py' else ast.Module([], [])
        names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names |= set(re.findall(r'\{\{\s*_base_\.(\w+)', text))
        for base in _imported_bases(tree):
            if not base.level:  # of a package: its names may be used there
                names |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
            todo.append(file.parents[max(base.level, 1) - 1] / f'{(base.module or "").replace(".", "/")}.py')
        todo += [file.parent / base for base in bases(tree) if '::' not in base]
    return names


def _imported_bases(tree: ast.Module) -> list[ast.ImportFrom]:
    """The imports in ``with read_base():`` of a pure Python config."""
    blocks = [node for node in ast.walk(tree) if isinstance(node, ast.With) and 'read_base' in ast.dump(node.items[0])]
    return [line for block in blocks for line in block.body if isinstance(line, ast.ImportFrom)]


def _check(node, place: tuple[str, ...], path: str, scope: str | None, places: Sequence[tuple]) -> None:
    if isinstance(node, (list, tuple)):
        for i, one in enumerate(node):
            _check(one, (*place, str(i)), path, scope, places)
    elif isinstance(node, dict):
        known, sure = _known(node, '/'.join(part.replace('/', '.') for part in place), scope, places)
        if known is not None:
            _refuse(node, known, sure, place, path)
        for key, value in node.items():
            _check(value, (*place, str(key)), path, scope, places)


def _known(node: dict, place: str, scope: str | None, places: Sequence[tuple]) -> tuple[set[str] | None, bool]:
    """Keys that are read in a dict, and whether others certainly are not; None if nobody knows."""
    if 'type' in node:
        kind = component(node['type'], scope)
        if kind is None or not arguments_of(kind):
            return None, False
        beside = [keys for pattern, keys in _BESIDE_TYPE if re.fullmatch(pattern, place)]
        swallowed = not takes_anything(kind) and re.fullmatch(r'(val|test)_evaluator(/.*)?', place)
        return arguments_of(kind).union(*beside), bool(swallowed)
    for pattern, known, sure in places:
        if pattern.fullmatch(place):
            return known, sure
    return None, False


def _refuse(node: dict, known: set[str], sure: bool, place: tuple[str, ...], path: str) -> None:
    for key in node:
        if key in known or key in _ANYWHERE or not isinstance(key, str):
            continue
        near = _alike(key, known)
        if near or sure:
            hint = f'Did you mean {near!r}?' if near else f'It has {", ".join(sorted(known)[:20])}.'
            raise ConfigError(f'{path}: {".".join(place)} has no {key!r}, so it would have no effect. {hint}')


def _alike(key: str, known: Collection[str]) -> str | None:
    """The known key that another is a misspelling of; one that is numbered (``logger2``) is none."""
    if key.rstrip('0123456789_') in known:
        return None
    near = difflib.get_close_matches(key, sorted(known), n=1, cutoff=_ALIKE)
    return near[0] if near else None


def unmatched(custom_keys: dict, names: Collection[str]) -> Iterator[tuple[str, str]]:
    """(key of ``custom_keys`` that is in the name of no parameter, part of a name that it resembles)."""
    parts = {part for name in names for part in name.split('.')}
    for key in custom_keys:
        if not any(key in name for name in names):
            near = _alike(key.split('.')[0], parts)
            if near and near != key.split('.')[0]:
                yield key, near
