"""Settings that a resumed run would ignore: those that were changed since its checkpoint was saved."""

from __future__ import annotations

import ast
from collections.abc import Iterator

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
    'default_hooks.checkpoint.save_best',
    'default_hooks.checkpoint.rule',
)
"""Keys of a config that a checkpoint overrides: a resumed run takes the checkpoint's values, as the best score."""

_ABSENT = 'nothing'
_LONGEST = 4_000_000  # characters; configs have some 10,000


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
        before = read_assignments((checkpoint.get('meta') or {}).get('cfg'))
        if before is None:  # of another program or version, which says nothing about this run
            return
        now = read_assignments(runner.cfg.pretty_text) or {}
        changes = [
            f'{place} was {old!r}, is now {new!r}'
            for key in COMPARED
            for place, old, new in differences(_value(before, key), _value(now, key), key)
        ]
        names = ((checkpoint['meta'].get('dataset_meta') or {}).get('classes'), _names(runner))
        if all(names):
            changes += [
                f'{place} was {old!r}, is now {new!r}'
                for place, old, new in differences(*map(list, names), 'the class names of the training data')
            ]
        if changes:
            raise ConfigError(
                f'--resume continues with the state of the checkpoint, so these changes would have no effect: '
                f'{"; ".join(changes)}. Take them back, or begin again from its weights with --load-from.'
            )


def read_assignments(text: object) -> dict | None:
    """Assignments in the text of a config, as mmengine prints it into checkpoints; nothing is executed.

    Args:
        text: Assignments of literals and of ``dict(...)``.

    Returns:
        Name -> value, without those that are no literal; None of a text that has none.

    Examples:
        >>> read_assignments("a = dict(b=[1, 'x'])\\nc = open('d')")
        {'a': {'b': [1, 'x']}}
    """
    if not isinstance(text, str) or len(text) > _LONGEST:
        return None
    found = {}
    try:
        for node in ast.parse(text).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                try:
                    found[node.targets[0].id] = ast.literal_eval(_Literal().visit(node.value))
                except ValueError:
                    continue
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return None
    return found or None


class _Literal(ast.NodeTransformer):
    """``dict(a=1)`` as ``{'a': 1}``, and names, of types and of inf, as strings."""

    def visit_Call(self, node: ast.Call) -> ast.AST:  # noqa: D102, N802
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict':
            return node
        self.generic_visit(node)
        if len(node.args) == 1 and not node.keywords:  # dict({'a b': 1})
            return node.args[0]
        keys = [ast.Constant(keyword.arg) for keyword in node.keywords]
        return ast.Dict(keys, [keyword.value for keyword in node.keywords])

    def visit_Name(self, node: ast.Name) -> ast.AST:  # noqa: D102, N802
        return ast.Constant(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:  # noqa: D102, N802
        return ast.Constant(ast.unparse(node))


def _names(runner) -> tuple[str, ...] | None:
    dataset = getattr(runner.train_dataloader, 'dataset', None)
    return (getattr(dataset, 'metainfo', None) or {}).get('classes')


def _value(cfg: dict, key: str):
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
