"""What a run that goes on would ignore: settings that were changed since its checkpoint was saved."""

from __future__ import annotations

from collections.abc import Iterator

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from vlm_dense.errors import ConfigError
from vlm_dense.registry import HOOKS

COMPARED = (
    'optim_wrapper.optimizer',
    'optim_wrapper.paramwise_cfg',
    'optim_wrapper.constructor',
    'param_scheduler',
    'model.class_names',
)
"""Keys of a config whose values a checkpoint brings along: a resumed run takes the checkpoint's."""

_ABSENT = 'nothing'


@HOOKS.register_module()
class ResumeCheckHook(Hook):
    """Refuses to resume with settings that would have no effect.

    The state of the optimiser and of its schedule comes from the checkpoint, and with it the learning rate. The
    checkpoint's config, which mmengine saves along, is compared with the one of this run. ``tools/train.py`` adds this
    hook to runs that resume.

    Raises:
        ConfigError: names each key with its old and new value.
    """

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare the configs."""
        text = (checkpoint.get('meta') or {}).get('cfg')
        if not isinstance(text, str):
            return
        try:
            before = Config.fromstring(text, '.py')
        except Exception:  # of another program or version, which says nothing about this run
            return
        changes = [
            f'{place} was {old!r}, is now {new!r}'
            for key in COMPARED
            for place, old, new in differences(_value(before, key), _value(runner.cfg, key), key)
        ]
        names = ((checkpoint['meta'].get('dataset_meta') or {}).get('classes'), _names(runner))
        if all(names):
            changes += [
                f'{place} was {old!r}, is now {new!r}'
                for place, old, new in differences(*map(list, names), 'the class names of the training data')
            ]
        if changes:
            raise ConfigError(
                f'--resume goes on with the state of the checkpoint, so these changes would have no effect: '
                f'{"; ".join(changes)}. Take them back, or begin anew from its weights with --load-from.'
            )


def _names(runner) -> tuple[str, ...] | None:
    dataset = getattr(runner.train_dataloader, 'dataset', None)
    return (getattr(dataset, 'metainfo', None) or {}).get('classes')


def _value(cfg: Config, key: str):
    node = cfg
    for part in key.split('.'):
        node = node.get(part) if hasattr(node, 'get') else None
    return node


def differences(old, new, place: str) -> Iterator[tuple[str, object, object]]:
    """(place, old value, new value) of each leaf in which two parts of configs differ; lists and tuples are alike."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            yield from differences(old.get(key, _ABSENT), new.get(key, _ABSENT), f'{place}.{key}')
    elif isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and len(old) == len(new):
        for i, (before, now) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, now, f'{place}.{i}')
    elif old != new and not (isinstance(old, (list, tuple)) and list(old) == new):
        yield place, old, new
