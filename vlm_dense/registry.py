"""Registries of scope ``vlm_dense``, children of mmengine's root registries.

``type='vlm_dense.X'`` resolves in any mm config with no ``custom_imports``:
mmengine imports ``vlm_dense.registry`` when it meets the scope, and each
registry imports its ``locations`` when a name is first looked up.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from vlm_dense import light
from vlm_dense.errors import ConfigError, unknown_name
from vlm_dense.libraries import require_openmmlab

require_openmmlab()

from mmengine import registry as root  # noqa: E402
from mmengine.utils import get_object_from_string  # noqa: E402


class Registry(root.Registry):
    """mmengine's registry with the names of mmseg and mmdet, and the nearest names in its errors.

    mmengine looks up the names of a base by name, ``_base_ = 'vlm_dense::...'``, in this scope, and our bases name
    parts of mmseg and mmdet as their own configs do.

    Args:
        by_name: Name -> module that registers it. Such a module is imported when its name is looked up, and not with
            the ``locations``: a look-up of a training class imports no exporter.
    """

    def __init__(self, *args, by_name: Mapping[str, str] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.by_name = dict(by_name or {})

    def import_from_location(self) -> None:
        """Import the ``locations``; mmengine warns that a package without any is not installed."""
        if self._locations:
            super().import_from_location()

    def get(self, key: str):
        """Return the class registered as ``key``.

        Raises:
            ConfigError: no registry knows ``key``; the message lists the
                registered names nearest to it.
        """
        name = key.rpartition('.')[2]
        if name in self.by_name:
            import_module(self.by_name[name])
        found, _ = light.search(self, key)
        if found is not None:
            return found
        light.whole()
        self.import_from_location()
        if '.' not in key and key not in self.module_dict:
            for registry in self.beside():
                registry.import_from_location()
                if key in registry.module_dict:
                    return registry.module_dict[key]
        try:
            found = super().get(key)
        except RuntimeError:  # mmengine's last resort, an import path, failed
            found = None
        if found is None and '.' in key:  # as pure Python configs are saved: the path behind the name of the package
            found = get_object_from_string(f'{self.scope}.{key}')
        if found is None:
            raise ConfigError(
                unknown_name(
                    key, f'{self.name} registry of vlm_dense', dict.fromkeys((*self._module_dict, *self.by_name))
                )
                + ' A class in a file of your own is registered by custom_imports=dict(imports=[FILE]) of the config.'
            )
        return found

    def beside(self) -> Iterator[root.Registry]:
        """Registries of the tasks, where names without scope are looked up behind this one and before its parent.

        Those of the default scopes of this process come first, the newest one before.
        """
        for scope in self._tasks():
            import_module(f'{scope}.registry')
            if scope in self.parent.children:
                yield self.parent.children[scope]

    def _tasks(self) -> list[str]:
        scopes = [each.scope_name for each in reversed(root.DefaultScope._instance_dict.values())]
        known = [scope for scope in ('mmseg', 'mmdet') if find_spec(scope)]
        return sorted(known, key=[*scopes, *known].index)


def registered(registry: root.Registry, kind: str | type) -> type:
    """Class of a ``type`` in a config, found as mmengine finds it.

    Raises:
        KeyError: unknown name, in mmengine's words.
    """
    if not isinstance(kind, str):
        return kind
    with registry.switch_scope_and_registry(None) as scoped:
        found = scoped.get(kind)
    if found is None:
        raise KeyError(f'{kind} is not in the {scoped.scope}::{scoped.name} registry.')
    return found


_DETECTION = ['vlm_dense.detection'] if find_spec('mmdet') else []
_MODELS = [
    *_DETECTION,
    'vlm_dense.classification',
    'vlm_dense.clip.resnet',
    'vlm_dense.clip.text_tower',
    'vlm_dense.clip.tower',
    'vlm_dense.clip.vit',
    'vlm_dense.methods',
    'vlm_dense.segmentation',
]
_EXPORTED = {
    'ExportedSegmentor': 'vlm_dense.export.models',
    **({'ExportedDetector': 'vlm_dense.export.detector'} if _DETECTION else {}),
}
_DATA = [*_DETECTION, 'vlm_dense.classification', 'vlm_dense.datasets']

MODELS = Registry('model', parent=root.MODELS, scope='vlm_dense', locations=_MODELS, by_name=_EXPORTED)
DATASETS = Registry('dataset', parent=root.DATASETS, scope='vlm_dense', locations=_DATA)
TRANSFORMS = Registry('transform', parent=root.TRANSFORMS, scope='vlm_dense', locations=[*_DATA, 'vlm_dense.methods'])
METRICS = Registry(
    'metric',
    parent=root.METRICS,
    scope='vlm_dense',
    locations=[
        *_DETECTION,
        'vlm_dense.classification',
        'vlm_dense.engine.components',
        'vlm_dense.methods',
        'vlm_dense.segmentation',
    ],
)
HOOKS = Registry(
    'hook',
    parent=root.HOOKS,
    scope='vlm_dense',
    locations=[
        'vlm_dense.classification',
        'vlm_dense.engine.components',
        'vlm_dense.methods',
        'vlm_dense.segmentation',
    ],
)
OPTIM_WRAPPERS = Registry(
    'optim_wrapper', parent=root.OPTIM_WRAPPERS, scope='vlm_dense', locations=['vlm_dense.methods']
)
PARAM_SCHEDULERS = Registry(
    'parameter scheduler',
    parent=root.PARAM_SCHEDULERS,
    scope='vlm_dense',
    locations=['vlm_dense.engine.components', 'vlm_dense.methods'],
)
TASK_UTILS = Registry('task util', parent=root.TASK_UTILS, scope='vlm_dense', locations=_DETECTION)
OTHERS = [
    Registry(parent.name, parent=parent, scope='vlm_dense')
    for parent in (
        root.RUNNERS,
        root.OPTIMIZERS,
        root.OPTIM_WRAPPER_CONSTRUCTORS,
        root.WEIGHT_INITIALIZERS,
        root.EVALUATOR,
        root.VISUALIZERS,
        root.VISBACKENDS,
        root.LOG_PROCESSORS,
    )
]
"""Empty registries: with them mmengine finds its own entries and those of the tasks in this scope."""


def build_part(cfg: dict, **given: Any) -> Any:
    """Build ``cfg``; of ``given``, pass only the arguments that the constructor declares; values in ``cfg`` win.

    Raises:
        ConfigError: the constructor needs something that is ``None`` in ``given``.
    """
    kind = MODELS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
    declared = inspect.signature(kind).parameters
    lacking = [
        name
        for name, value in given.items()
        if value is None and name in declared and declared[name].default is inspect.Parameter.empty and name not in cfg
    ]
    if lacking:
        raise ConfigError(
            f'{kind.__name__} needs {", ".join(lacking)}, which a head or a backbone alone has not. Use it in a model '
            "that builds both towers: 'vlm_dense.CLIPClassifier', 'vlm_dense.DenseCLIP' or 'vlm_dense.MaskCLIP'."
        )
    given = {name: value for name, value in given.items() if name in declared and value is not None}
    return MODELS.build(cfg, default_args=given)
