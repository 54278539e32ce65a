"""Checkpoints: loaded only where they fit, saved without frozen weights. How they are read is in ``reading.py``."""

from __future__ import annotations

import fnmatch
import re
import sys
import zlib
from collections import OrderedDict
from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import MODELS
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vlm_dense.engine.checkpoints.bundled import add_differences
from vlm_dense.engine.checkpoints.fingerprints import fingerprint, same
from vlm_dense.engine.checkpoints.reading import install_loaders, load_from_http, load_from_local, read_checkpoint
from vlm_dense.engine.generators import generators_kept, seed_generators
from vlm_dense.errors import CheckpointError, ConfigError
from vlm_dense.registry import HOOKS

__all__ = [
    'CheckpointFitHook',
    'FrozenWeightsHook',
    'class_differences',
    'install_loaders',
    'load_from_http',
    'load_from_local',
    'read_checkpoint',
]

_META_KEY = 'frozen_weights'


def _bare_model(runner) -> nn.Module | None:
    """The model without DDP and test-time augmentation around it; None where weights are sharded (FSDP, DeepSpeed)."""
    model = runner.model
    while isinstance(model, (DistributedDataParallel, BaseTTAModel)):
        model = model.module
    return None if is_model_wrapper(model) else model


# --- fitting --------------------------------------------------------------------------------------------------


@HOOKS.register_module()
class CheckpointFitHook(Hook):
    """Refuse a checkpoint that does not fit the model or the data, where mmengine would load the part that does.

    Also puts the frozen weights that :class:`FrozenWeightsHook` left out back into what was read, taking them from
    the model as built, after a look that they are the weights the checkpoint was trained with. The differences that a
    checkpoint of the package holds are added to them likewise.

    The names of the classes that a checkpoint was trained for, and their order, are in its
    ``meta['dataset_meta']['classes']``. Where the data of the run have others, the checkpoint is refused, unless the
    model has an open vocabulary, so that none of its weights changes in shape with the number of classes, or a training
    on other classes begins with it, as ``allow`` says.

    With FSDP the check is the same, on what each process loads.

    Args:
        allow: Patterns, as of :mod:`fnmatch`, of keys that may be missing, unknown or of another shape. Weights of
            another shape are left out. For fine-tuning on other classes: ``allow=['decode_head.conv_seg.*']``.
        other_classes: Whether the checkpoint may have been trained for other classes, or for these in another order.

    Raises:
        CheckpointError: keys missing, unexpected or of another shape; values that are NaN, infinite, or of another kind
            than the model's; other frozen weights; other classes; weights alone where training is to be resumed.
    """

    priority = 'VERY_HIGH'  # before EMAHook, which reads the state dict

    def __init__(self, allow: Sequence[str] = (), other_classes: bool = False):
        if isinstance(allow, str):
            raise ConfigError(f'CheckpointFitHook: allow must be a list of patterns, found the string {allow!r}.')
        self.allow, self.other_classes = tuple(allow), other_classes

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Make ``checkpoint`` fit, or refuse it."""
        model = _bare_model(runner)
        if model is None:
            model = runner.model
            if not _is_sharded(model):
                print_log(f'What {type(model).__name__} loads is not checked.', logger='current')
                return
        if 'state_dict' not in checkpoint:  # weights alone, as torch.save(model.state_dict())
            weights = OrderedDict(checkpoint)
            checkpoint.clear()
            checkpoint.update(meta={}, state_dict=weights)
        self._check_resumable(runner, checkpoint)
        state_dict = checkpoint['state_dict']
        if state_dict and all(k.startswith('module.') for k in state_dict):
            state_dict = checkpoint['state_dict'] = OrderedDict((k[7:], v) for k, v in state_dict.items())
        add_differences(checkpoint, lambda: _whole_state(model))
        self._check_values(model, state_dict)
        self._check_classes(runner, model, checkpoint)
        self._restore_frozen(model, checkpoint)
        self._check_fit(model, state_dict)

    @staticmethod
    def _check_resumable(runner, checkpoint: dict) -> None:
        if not getattr(runner, '_resume', False):
            return
        absent = [key for key in ('meta', 'optimizer', 'message_hub') if not checkpoint.get(key)]
        if runner.cfg.get('param_scheduler') and not checkpoint.get('param_schedulers'):
            absent.append('param_schedulers')  # mmengine would begin the schedule again
        if absent:
            raise CheckpointError(
                f'Training cannot be resumed from this checkpoint: it holds no {", ".join(absent)}. Checkpoints that '
                '`vlm-dense train` saved hold them. For its weights alone use --load-from.'
            )
        for key in ('iter', 'epoch'):
            step = checkpoint['meta'].get(key, 0)
            if not isinstance(step, int) or isinstance(step, bool) or step < 0:
                raise CheckpointError(
                    f'Training cannot be resumed from this checkpoint: its meta[{key!r}] is {step!r}, expected how '
                    'many are done. To start again from its weights, use --load-from instead of --resume.'
                )

    @staticmethod
    def _check_values(model: nn.Module, state_dict: dict) -> None:
        own = {_plain(name): tensor for name, tensor in (*model.named_parameters(), *model.named_buffers())}
        for key, value in state_dict.items():
            if not isinstance(value, Tensor):
                continue
            wanted = own.get(key)
            if wanted is not None and wanted.shape != value.shape:
                wanted = None
            if wanted is None and not _is_sharded(model):  # told where shapes are compared
                continue
            if wanted is not None and _kind(wanted) != _kind(value):
                raise CheckpointError(
                    f'The checkpoint does not fit the model: {key} holds {_kind(value)} numbers ({value.dtype}), and '
                    f'the model has {_kind(wanted)} ones ({wanted.dtype}). Save the weights of the training itself, '
                    'not a quantised or otherwise converted copy.'
                )
            if key.endswith('running_var') and (value < 0).any():
                raise CheckpointError(
                    f'The checkpoint is broken: {key} holds negative variances. Take an earlier checkpoint.'
                )
            finite = _finite(value)
            if not finite.all():
                if wanted is not None and not _finite(wanted).all():  # a mask of -inf
                    continue
                bad = (~finite).sum().item()
                raise CheckpointError(
                    f'The checkpoint is broken: {bad} of {value.numel()} values of {key} are NaN or infinite. The '
                    'training diverged, or the file was changed. Take an earlier checkpoint.'
                )

    def _check_classes(self, runner, model: nn.Module, checkpoint: dict) -> None:
        resumed = getattr(runner, '_resume', False)
        fine_tuned = self.allow and not resumed and isinstance(getattr(runner, '_train_loop', None), BaseLoop)
        if self.other_classes or fine_tuned:
            return
        saved = _names((checkpoint.get('meta') or {}).get('dataset_meta'))
        wanted = _names(_dataset_meta(runner))
        if not saved or not wanted or saved == wanted:
            return
        differences = class_differences(saved, wanted)
        if not resumed and _open_vocabulary(runner, model, wanted):
            print_log(f'The checkpoint was trained for other classes: {differences}', logger='current')
            return
        raise CheckpointError(
            f'The checkpoint was trained for other classes than the data of this run have: {differences} Its outputs '
            'would be taken for the wrong classes. Use data with the classes of the training in their order '
            '(metainfo=dict(classes=...) of the data set). To begin a training on other classes with its weights, name '
            'the weights that may differ: dict(type="vlm_dense.CheckpointFitHook", allow=["decode_head.conv_seg.*"]); '
            'to load all of them nevertheless, give it other_classes=True.'
        )

    @staticmethod
    def _restore_frozen(model: nn.Module, checkpoint: dict) -> None:
        frozen = (checkpoint.get('meta') or {}).get(_META_KEY, {})
        if not frozen:
            return
        own = _whole_state(model)
        lost = [k for k in frozen if k not in own]
        changed = [k for k in frozen if k in own and not same(frozen[k], fingerprint(own[k]))]
        if lost or changed:
            raise CheckpointError(
                f'The checkpoint was trained on top of {len(frozen)} frozen tensors that it does not hold, and this '
                f'model has others: {_first(lost + changed)} differ. Build the model with the weights of the '
                'training: the same arch, pretrained and frozen parts in the config.'
            )
        for key in frozen:
            checkpoint['state_dict'].setdefault(key, own[key])
            if 'ema_state_dict' in checkpoint:
                checkpoint['ema_state_dict'].setdefault(f'module.{key}', own[key])

    def _check_fit(self, model: nn.Module, state_dict: dict) -> None:
        if self.allow:
            own = {_plain(name): tensor.shape for name, tensor in (*model.named_parameters(), *model.named_buffers())}
            unlike = [k for k, v in state_dict.items() if k in own and v.shape != own[k] and self._allowed(k)]
            for key in unlike:
                del state_dict[key]
        shapes = []
        missing, unexpected = [], []
        try:
            missing, unexpected = model.load_state_dict(state_dict, strict=False)
        except RuntimeError as error:
            pattern = r'size mismatch for (\S+): .*?\[([\d, ]*)\]\).*?\[([\d, ]*)\]\)'
            shapes = [f'{_plain(k)} ({a} in the file, {b} in the model)' for k, a, b in re.findall(pattern, str(error))]
            if not shapes:
                raise CheckpointError(f'The checkpoint does not fit the model: {error}') from error
        missing = [k for k in map(_plain, missing) if not k.endswith('num_batches_tracked') and not self._allowed(k)]
        unexpected = [k for k in map(_plain, unexpected) if not self._allowed(k)]
        lines = [
            f'{len(keys)} {what}: {_first(keys)}'
            for what, keys in (
                ('missing from the checkpoint', missing),
                ('unknown to the model', unexpected),
                ('of another shape', shapes),
            )
            if keys
        ]
        if lines:
            raise CheckpointError(
                f'The checkpoint does not fit {type(model).__name__}. Of its {len(state_dict)} tensors:\n  '
                + '\n  '.join(lines)
                + '\nUse the config it was trained with. To load only what fits, name the keys that may differ: '
                'dict(type="vlm_dense.CheckpointFitHook", allow=["decode_head.*"]) in custom_hooks.'
            )

    def _allowed(self, key: str) -> bool:
        return any(fnmatch.fnmatchcase(key, pattern) for pattern in self.allow)


def _plain(key: str) -> str:
    """A key without what FSDP and recomputation put into it."""
    return re.sub(r'(_fsdp_wrapped_module|_checkpoint_wrapped_module)\.', '', key)


def _kind(tensor: Tensor) -> str:
    return 'real' if tensor.is_floating_point() else 'complex' if tensor.is_complex() else 'integer'


def _finite(tensor: Tensor) -> Tensor:
    """Which values are no NaN and not infinite; torch cannot tell of numbers of 8 bits."""
    eight_bits = tensor.is_floating_point() and tensor.element_size() == 1
    return torch.isfinite(tensor.float() if eight_bits else tensor)


def _first(keys: list[str], count: int = 3) -> str:
    return ', '.join(keys[:count]) + (', ...' if len(keys) > count else '')


def _is_sharded(model: nn.Module) -> bool:
    """Whether FSDP wraps a model, which has then imported it."""
    fsdp = sys.modules.get('torch.distributed.fsdp')
    return fsdp is not None and isinstance(model, fsdp.FullyShardedDataParallel)


def _whole_state(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of the model; of one that is sharded put together, which all processes must call for."""
    if not _is_sharded(model):
        return model.state_dict()
    with model.summon_full_params(model, writeback=False):
        everything = (*model.named_parameters(), *model.named_buffers())
        return {_plain(name): tensor.detach().cpu().clone() for name, tensor in everything}


# --- classes --------------------------------------------------------------------------------------------------


def _names(meta: dict | None) -> tuple[str, ...]:
    names = (meta or {}).get('classes') or ()
    return (names,) if isinstance(names, str) else tuple(map(str, names))


def _dataset_meta(runner) -> dict | None:
    """Metainfo of the data that the run is about: those it trains on, or else those it tests on."""
    loops = (getattr(runner, f'_{name}_loop', None) for name in ('train', 'val', 'test'))
    loop = next((loop for loop in loops if isinstance(loop, BaseLoop)), None)
    return None if loop is None else getattr(loop.dataloader.dataset, 'metainfo', None)


def class_differences(saved: Sequence[str], wanted: Sequence[str]) -> str:
    """Differences between the names of a checkpoint and of data, in sentences."""
    if sorted(saved) == sorted(wanted):
        label = next(i for i, (a, b) in enumerate(zip(saved, wanted, strict=True)) if a != b)
        return f'the same names in another order, first label {label}: {saved[label]!r} -> {wanted[label]!r}.'
    gone, new = ([x for x in a if x not in b] for a, b in ((saved, wanted), (wanted, saved)))
    parts = [f'{len(saved)} -> {len(wanted)} names']
    parts += [f'{len(gone)} of the checkpoint only ({_first(gone)})'] if gone else []
    parts += [f'{len(new)} of the data only ({_first(new)})'] if new else []
    return '; '.join(parts) + '.'


def _open_vocabulary(runner, model: nn.Module, names: Sequence[str]) -> bool:
    """Whether no weight of the model changes in shape with the number of classes."""
    cfg = runner.cfg.get('model') if hasattr(runner, 'cfg') else None
    while isinstance(cfg, dict) and 'module' in cfg:  # test-time augmentation
        cfg = cfg['module']
    if not isinstance(cfg, dict) or not cfg.get('class_names') or len(cfg['class_names']) != len(names):
        return False
    with generators_kept():
        try:
            more = MODELS.build({**cfg, 'class_names': [*cfg['class_names'], 'something else']})
        except ValueError:  # a head of fixed size
            return False
    own = _whole_state(model)
    return all(key in own and own[key].shape == value.shape for key, value in more.state_dict().items())


# --- frozen weights -------------------------------------------------------------------------------------------


def _crc(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())


def _untrained(model: nn.Module) -> list[str]:
    """Keys of parameters without gradient, and of buffers of modules that have only such parameters."""
    keys = []
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if not own or any(p.requires_grad for p in own.values()):
            keys += [f'{prefix}.{k}'.lstrip('.') for k, p in own.items() if not p.requires_grad]
        else:
            keys += [f'{prefix}.{k}'.lstrip('.') for k in (*own, *dict(module.named_buffers(recurse=False)))]
    return keys


@HOOKS.register_module()
class FrozenWeightsHook(Hook):
    """Leave frozen weights out of checkpoints where building the model from its config yields them anyway.

    The model is built once more before the first checkpoint is saved. A tensor that is not trained and equals, bit for
    bit, that of the second model is left out; ``meta['frozen_weights']`` keeps its name and a fingerprint, so that
    :class:`CheckpointFitHook` finds it again and notices a different one. Frozen weights that a config cannot give
    back (drawn at random, loaded by ``init_cfg`` or ``load_from``, moved by a moving average) are saved as usual.
    """

    priority = 'LOWEST'  # after EMAHook, which swaps the weights that are saved

    def __init__(self):
        self._reproducible: dict[str, tuple[int, list[float]]] | None = None  # key -> check sum, fingerprint

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Take the reproducible weights out of ``checkpoint``."""
        if self._reproducible is None:
            self._reproducible = self._find(runner)
        weights, ema, left_out = checkpoint['state_dict'], checkpoint.get('ema_state_dict', {}), {}
        for key, (crc, mark) in self._reproducible.items():
            both = [t for t in (weights.get(key), ema.get(f'module.{key}')) if t is not None]
            if both and all(_crc(t) == crc for t in both):
                left_out[key] = mark
                weights.pop(key, None)
                ema.pop(f'module.{key}', None)
        if left_out:
            checkpoint['meta'][_META_KEY] = left_out

    @staticmethod
    def _find(runner) -> dict[str, tuple[int, list[float]]]:
        """The frozen weights that the config alone yields."""
        model = _bare_model(runner)
        keys = _untrained(model) if model is not None else []
        if not keys or not isinstance(runner.cfg.get('model'), dict):
            return {}
        with generators_kept():
            seed_generators(runner.seed + 1)  # what is drawn at random shall differ
            weights = MODELS.build(runner.cfg.model).state_dict()
        return {k: (_crc(weights[k]), fingerprint(weights[k])) for k in keys if k in weights}
