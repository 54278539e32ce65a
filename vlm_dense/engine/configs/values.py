"""Values of a config that cannot work: a table of places, what holds there, and how it is said."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType

from mmengine.config import Config
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

from vlm_dense.engine.configs.components import READ_KEYS
from vlm_dense.errors import ConfigError

_PLAIN = (str, bytes, int, float, list, tuple, set, frozenset)
_LARGEST_SEED = 2**32 - 1  # of numpy
_METRICS = ('mIoU', 'mDice', 'mFscore')
_LEVELS = ('CRITICAL', 'FATAL', 'ERROR', 'WARNING', 'WARN', 'INFO', 'DEBUG', 'NOTSET')
_CLIPPING = {'type', *(name for f in (clip_grad_norm_, clip_grad_value_) for name in inspect.signature(f).parameters)}


def is_integer(value, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether a value is an integer from ``least`` to ``most``; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_number(value, least: float = -math.inf) -> bool:
    """Whether a value is a finite number of at least ``least``."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value < math.inf


def _whole(value) -> bool:
    """Whether a value counts something; a quotient without remainder, as 8.0, does as well."""
    return is_integer(value, 1) or (isinstance(value, float) and value.is_integer() and value >= 1)


def _component(value) -> bool:
    """A dict with a type, or something that was built already."""
    return 'type' in value if isinstance(value, Mapping) else not isinstance(value, _PLAIN)


def _side(value) -> bool:
    """A positive number, -1 (no limit), or several of those."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(_side, value))
    return is_number(value) and (value > 0 or value == -1)


def _weights(value) -> bool:
    return isinstance(value, (list, tuple)) and all(is_number(weight, 0) for weight in value)


def _or_none(holds: Callable) -> Callable:
    return lambda value: value is None or holds(value)


def _any_of(holds: Callable) -> Callable:
    """One value, or a list of them."""
    return lambda value: all(map(holds, value)) if isinstance(value, (list, tuple)) else holds(value)


def _kind(*kinds: type) -> Callable:
    return lambda value: isinstance(value, kinds)


_SET = '(train|val|test)_dataloader/dataset(/dataset|/datasets/\\d+)*'
_EVALUATOR = '(val|test)_evaluator(/\\d+|/metrics/\\d+)?'
_HEAD = 'model/(.*/)?(decode|auxiliary)_head(/\\d+)?'
_AT_LEAST_1 = (lambda value: is_integer(value, 1), 'an integer of at least 1')
_AT_LEAST_0 = (lambda value: is_integer(value, 0), 'an integer of at least 0')
_INTEGER = (is_integer, 'an integer')
_DICT = (_or_none(lambda value: not isinstance(value, _PLAIN)), 'a dict')
_TYPED = (_or_none(_component), 'a dict with a type')
_TEXT = (_or_none(_kind(str)), 'a string')

_RULES: list[tuple[str, Callable, str]] = [
    # parts of a config
    ('model', *_DICT),
    ('(train|val|test)_(dataloader|cfg)|default_hooks|optim_wrapper|env_cfg|randomness', *_DICT),
    ('log_processor|auto_scale_lr|model_wrapper_cfg|tta_model', *_DICT),
    ('visualizer|default_hooks/[^/]*', *_TYPED),
    ('custom_hooks', _or_none(_kind(list, tuple)), 'a list of hooks'),
    ('custom_hooks/\\d+', _component, 'a dict with a type'),
    ('param_scheduler', _or_none(lambda value: not isinstance(value, (str, int, float))), 'a dict or a list of dicts'),
    ('work_dir|load_from|default_scope', *_TEXT),
    ('resume', _or_none(_kind(bool)), 'True or False; the checkpoint itself is load_from'),
    ('log_level', lambda value: is_integer(value) or value in _LEVELS, f'one of {", ".join(_LEVELS)}'),
    ('log_processor/window_size', *_AT_LEAST_1),
    ('randomness/seed', _or_none(lambda v: is_integer(v, 0, _LARGEST_SEED)), 'an integer from 0 to 2**32 - 1, or None'),
    # data
    ('(train|val|test)_dataloader/batch_size', *_AT_LEAST_1),
    ('(train|val|test)_dataloader/num_workers', *_AT_LEAST_0),
    ('(train|val|test)_dataloader/(batch_)?sampler', *_TYPED),
    (_SET, *_TYPED),
    (f'{_SET}/pipeline', _or_none(_kind(list, tuple)), 'a list of steps'),
    (f'{_SET}/pipeline/\\d+', lambda step: _component(step) or callable(step), 'a dict with a type'),
    (f'{_SET}/(metainfo|data_prefix)', *_DICT),
    (f'{_SET}/(data_root|ann_file)', *_TEXT),
    (f'{_SET}/(img|seg_map)_suffix', lambda value: isinstance(value, (str, list, tuple)), 'a string, as .png'),
    ('(.*/)?(metainfo/classes|class_names)', _or_none(_kind(list, tuple, str)), 'a list, in label order'),
    ('.*pipeline.*/scale', _any_of(_side), 'made of positive numbers'),
    # training
    ('train_cfg/(max_iters|max_epochs|val_interval)', _or_none(_whole), _AT_LEAST_1[1]),
    ('optim_wrapper/accumulative_counts', *_AT_LEAST_1),
    ('optim_wrapper/optimizer', *_TYPED),
    ('optim_wrapper/optimizer/(lr|weight_decay)', lambda value: is_number(value, 0), 'a number of at least 0'),
    ('optim_wrapper/clip_grad/(max_norm|clip_value|norm_type)', is_number, 'a number'),
    ('param_scheduler(/\\d+)?/(power|gamma|factor|(start|end)_factor|eta_min(_ratio)?)', is_number, 'numeric'),
    ('default_hooks/checkpoint/(interval|max_keep_ckpts)', *_INTEGER),
    (f'{_EVALUATOR}/iou_metrics', _any_of(lambda value: value in _METRICS), f'a list of some of {", ".join(_METRICS)}'),
    # models
    ('model/test_cfg/mode', lambda value: value in ('whole', 'slide', 'slide_flip'), "'whole' or 'slide'"),
    (f'{_HEAD}/channels', *_AT_LEAST_1),
    (f'{_HEAD}/num_classes', _or_none(_AT_LEAST_1[0]), _AT_LEAST_1[1]),
    (f'{_HEAD}/in_channels', _any_of(_AT_LEAST_1[0]), 'an integer of at least 1, or a list of them'),
    (f'{_HEAD}/in_index', _any_of(is_integer), 'an integer, or a list of them'),
    (f'{_HEAD}/ignore_index', _or_none(is_integer), 'an integer'),
    (f'{_HEAD}/loss_decode(/\\d+)?/loss_weight', is_number, 'a number'),
    (f'{_HEAD}/loss_decode(/\\d+)?/class_weight', lambda v: v is None or isinstance(v, str) or _weights(v), 'numbers'),
    ('model/data_preprocessor/size', _or_none(_any_of(_AT_LEAST_1[0])), 'two positive integers'),
    ('(.*/)?init_cfg', lambda value: not isinstance(value, (str, int, float)), 'a dict, or a list of dicts'),
    ('(.*/)?type', lambda v: bool(v.strip()) if isinstance(v, str) else callable(v), 'a name or a class'),
    ('.*', lambda value: not isinstance(value, FunctionType) or value.__name__ != '<lambda>', 'no lambda, which cannot '
     'be written into the work dir with the config: give a function of a module a name'),
]  # fmt: skip
"""(pattern of a place, with / for each dot; what holds there; how it is said)."""
_COMPILED = [(re.compile(pattern), holds, words) for pattern, holds, words in _RULES]


def check_value_table(cfg: Config) -> None:
    """Compare a config, where mmengine would read it, with the table of what values can work.

    Raises:
        ConfigError: names the key, what is expected and what was found.
    """
    for key in sorted(READ_KEYS & set(cfg)):
        for place, value in _walk(cfg._cfg_dict[key], key):
            for pattern, holds, words in _COMPILED:
                if pattern.fullmatch(place) and not holds(value):
                    raise ConfigError(f'{place.replace("/", ".")} must be {words}, found {value!r}.')
    _check_clipping((cfg.get('optim_wrapper') or {}).get('clip_grad'))
    _check_class_weights(cfg.get('model') or {}, 'model')
    model = cfg.get('model') or {}
    if isinstance(model.get('test_cfg'), Mapping) and model['test_cfg'].get('mode') == 'slide':
        check_windows(model['test_cfg'], 'model.test_cfg')


def _walk(node, place: str) -> Iterator[tuple[str, object]]:
    """All values in dicts and lists with their paths."""
    yield place, node
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _walk(value, f'{place}/{str(key).replace("/", ".")}')
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _walk(value, f'{place}/{i}')


def _check_clipping(clip_grad) -> None:
    unknown = sorted(set(clip_grad) - _CLIPPING) if isinstance(clip_grad, Mapping) else []
    if unknown:
        raise ConfigError(
            f'optim_wrapper.clip_grad has no {unknown[0]!r}. It takes {", ".join(sorted(_CLIPPING - {"parameters"}))}.'
        )


def _check_class_weights(node, place: str) -> None:
    """A loss has a weight for each class of its head."""
    if isinstance(node, (list, tuple)):
        for i, one in enumerate(node):
            _check_class_weights(one, f'{place}.{i}')
    if not isinstance(node, Mapping):
        return
    loss, outputs = node.get('loss_decode'), node.get('out_channels') or node.get('num_classes')
    weights = loss.get('class_weight') if isinstance(loss, Mapping) else None  # of several losses none is sure
    if isinstance(weights, (list, tuple)) and is_integer(outputs, 2) and len(weights) not in (outputs, outputs + 1):
        raise ConfigError(
            f'{place}.loss_decode.class_weight has {len(weights)} numbers for {outputs} classes. Give one a class, in '
            'label order.'
        )
    for key, value in node.items():
        _check_class_weights(value, f'{place}.{key}')


def check_windows(test_cfg: Mapping, key: str = 'test_cfg') -> None:
    """Check whether the windows of a segmentor's test are there and leave no gaps.

    Args:
        test_cfg: With ``crop_size`` and ``stride``.
        key: Its place, for messages.

    Raises:
        ConfigError: windows that are absent, no pair of positive integers, or leave gaps.
    """
    crop, stride = (_pair(test_cfg, name, key) for name in ('crop_size', 'stride'))
    if any(s > c for s, c in zip(stride, crop, strict=True)):
        raise ConfigError(
            f'{key}.stride must not be larger than {key}.crop_size, or pixels between the windows would be seen by '
            f'none; found stride {stride} and crop_size {crop}.'
        )


def _pair(test_cfg: Mapping, name: str, key: str) -> tuple[int, int]:
    value = test_cfg.get(name)
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(is_integer(v, 1) for v in value):
        raise ConfigError(f'{key}.{name} must be (height, width), two positive integers, found {value!r}.')
    return tuple(value)
