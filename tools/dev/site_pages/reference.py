"""The public names of the package, their pages and their roles."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

import torch
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel, BaseTTAModel
from mmengine.optim import OptimWrapper, _ParamScheduler
from mmengine.runner import BaseLoop

import vlm_dense
from vlm_dense import registry
from vlm_dense.contract import (
    DenseAttention,
    Head,
    ImagePrompt,
    LearnedContext,
    Loss,
    Prepared,
    StreamAdaptation,
    TestTimeAdaptation,
    TextPrompt,
)
from vlm_dense.engine import registry as engine_registry
from vlm_dense.segmentation import Step

ROLES = {
    LearnedContext: 'text prompt with learned context',
    TextPrompt: 'text prompt',
    ImagePrompt: 'image prompt',
    Head: 'head',
    Prepared: 'preparation',
    Loss: 'loss',
    DenseAttention: 'dense attention',
    Step: 'step from maps to labels',
    StreamAdaptation: 'test-time adaptation of a stream',
    TestTimeAdaptation: 'test-time adaptation',
    BaseTTAModel: 'test-time augmentation',
    BaseModel: 'task',
    OptimWrapper: 'optimiser wrapper',
    Hook: 'hook',
    BaseMetric: 'metric',
    BaseDataset: 'data set',
    BaseLoop: 'loop',
    _ParamScheduler: 'parameter scheduler',
}
"""Base class -> role. The roles of docs/contract.md, then mmengine's."""

_ROLE = re.compile(r':(?:class|func|meth|attr|data|mod|exc):`~?\.?([\w.]+)`')


@dataclass
class Public:
    """A public object.

    Attributes:
        path: Dotted path to where it is defined.
        section: Package with the page that shows it.
        value: The object.
    """

    path: str
    section: str
    value: object

    @property
    def documented(self) -> bool:
        """It has a docstring of its own; a constant counts as one, since its text is not kept at run time."""
        if inspect.ismodule(self.value) or inspect.isfunction(self.value):
            return bool(self.value.__doc__)
        return bool(vars(self.value).get('__doc__')) if inspect.isclass(self.value) else True


class Reference:
    """What ``__all__`` of the packages names, what is registered, and the errors.

    Attributes:
        registered: Name -> class of all registries.
    """

    def __init__(self):
        known = [*vars(registry).values(), *vars(engine_registry).values()]
        registries = [value for value in known if isinstance(value, registry.Registry)]
        for each in registries:
            each.import_from_location()
            for name in each.by_name:
                each.get(name)
        self.registered = {name: kind for each in registries for name, kind in each.module_dict.items() if _ours(kind)}

    @cached_property
    def public(self) -> list[Public]:
        """All public objects, each once, where it is defined."""
        found = {}
        for module in self._modules():
            for name in getattr(module, '__all__', ()):
                value = getattr(module, name)
                if not inspect.ismodule(value):
                    _add(found, value, f'{module.__name__}.{name}')
                elif not hasattr(value, '__path__'):
                    found.setdefault(value.__name__, Public(value.__name__, module.__name__, value))
        errors = importlib.import_module('vlm_dense.errors')
        for value in [*self.registered.values(), *vars(errors).values()]:
            if inspect.isclass(value) and _ours(value):
                _add(found, value, '')
        within = {path for path, each in found.items() if inspect.ismodule(each.value)}
        return sorted(
            (each for path, each in found.items() if path.rpartition('.')[0] not in within), key=lambda each: each.path
        )

    @staticmethod
    def _modules() -> list[ModuleType]:
        names = [
            m.name for m in pkgutil.walk_packages(vlm_dense.__path__, 'vlm_dense.') if not m.name.endswith('__main__')
        ]
        return [vlm_dense, *map(importlib.import_module, names)]

    @cached_property
    def sections(self) -> dict[str, list[Public]]:
        """Package -> its public objects."""
        found = {}
        for each in self.public:
            found.setdefault(each.section, []).append(each)
        return dict(sorted(found.items()))

    def roles(self, kind: type) -> str:
        """Roles of a class, separated by commas; '-' for other parts."""
        found = [(base, role) for base, role in ROLES.items() if issubclass(kind, base)]
        said = [role for base, role in found if not any(issubclass(o, base) and o is not base for o, _ in found)]
        return ', '.join(said) or ('module' if issubclass(kind, torch.nn.Module) else '-')

    def plain(self, text: str) -> str:
        """Docstring with its references as code."""
        return _ROLE.sub(r'`\1`', text).replace('``', '`')

    @cached_property
    def _by_name(self) -> dict[str, str]:
        found = {}
        for each in self.public:
            found.setdefault(each.path.rpartition('.')[2], []).append(each.path)
        return {name: paths[0] for name, paths in found.items() if len(paths) == 1}

    def linked(self, text: str) -> str:
        """Docstring with its references as links to public objects, or as code, and ``::`` before code as ``:``."""

        def link(found: re.Match) -> str:
            path = self._by_name.get(found[1].rpartition('.')[2])
            return f'[`{found[1]}`][{path}]' if path else f'`{found[1]}`'

        return _ROLE.sub(link, re.sub(r'(?<=\S)::$', ':', text, flags=re.M))


def _ours(kind: object) -> bool:
    return getattr(kind, '__module__', '').startswith('vlm_dense')


def _add(found: dict[str, Public], value: object, path: str) -> None:
    module = getattr(value, '__module__', None)
    path = f'{module}.{value.__qualname__}' if module and hasattr(value, '__qualname__') else path
    found.setdefault(path, Public(path, _section(path), value))


def _section(path: str) -> str:
    """Package of a path; methods and their base have pages of their own."""
    parts = path.split('.')[:-1]
    if len(parts) == 1:
        return parts[0]
    depth = 3 if parts[1] == 'methods' else 2
    return '.'.join(parts[:depth])


def page_name(section: str) -> str:
    """Page of a section in the site.

    Examples:
        >>> page_name('vlm_dense'), page_name('vlm_dense.methods.adapters')
        ('reference/vlm_dense.md', 'reference/methods.adapters.md')
    """
    return f'reference/{section.removeprefix("vlm_dense.")}.md'


def reference_page(section: str, objects: list[Public]) -> str:
    """Page with the docstrings of a section; mkdocstrings fills it."""
    package = importlib.import_module(section)
    lines = [f'# {section}', inspect.getdoc(package) or '']
    lines += [f'::: {each.path}' for each in objects]
    return '\n\n'.join(lines) + '\n'
