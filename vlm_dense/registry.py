"""Registries of scope ``vlm_dense``, children of mmengine's root registries.

``type='vlm_dense.X'`` resolves in any mm config with no ``custom_imports``:
mmengine imports ``vlm_dense.registry`` when it meets the scope, and each
registry imports its ``locations`` when a name is first looked up.
"""

from __future__ import annotations

import difflib
from importlib.util import find_spec

from mmengine import registry as root

from vlm_dense.errors import ConfigError


class Registry(root.Registry):
    """mmengine's registry, with the nearest names in its complaint."""

    def get(self, key: str):
        """Return the class registered as ``key``.

        Raises:
            ConfigError: no registry knows ``key``; the message lists the
                registered names nearest to it.
        """
        try:
            found = super().get(key)
        except RuntimeError:  # mmengine's last resort, an import path, failed
            found = None
        if found is None:
            raise ConfigError(unknown_name(key, f'{self.name} registry of vlm_dense', self._module_dict))
        return found


def unknown_name(name: str, where: str, known) -> str:
    """Message for an unknown name that suggests the nearest known ones.

    Args:
        name: What the user wrote.
        where: What was searched, for the sentence "... is not in the {where}".
        known: The names that exist.
    """
    known = sorted(known)
    near = difflib.get_close_matches(name.split('.')[-1], known, n=3, cutoff=0.5)
    if not near:
        lower = {k.lower(): k for k in known}
        near = [lower[k] for k in difflib.get_close_matches(name.lower(), lower, n=3, cutoff=0.5)]
    some = ', '.join(known[:20]) + (f' and {len(known) - 20} more' if len(known) > 20 else '')
    hint = f'Did you mean {" or ".join(repr(n) for n in near)}?' if near else f'Known: {some}.'
    return f'{name!r} is not in the {where}. {hint}'


_DETECTION = ['vlm_dense.detection'] if find_spec('mmdet') else []
_MODELS = [
    *_DETECTION,
    *(['vlm_dense.export.detector'] if _DETECTION else []),
    'vlm_dense.classification',
    'vlm_dense.clip.resnet',
    'vlm_dense.clip.text_tower',
    'vlm_dense.clip.vit',
    'vlm_dense.export.models',
    'vlm_dense.methods',
    'vlm_dense.segmentation',
]
_DATA = [*_DETECTION, 'vlm_dense.classification', 'vlm_dense.datasets']

MODELS = Registry('model', parent=root.MODELS, scope='vlm_dense', locations=_MODELS)
DATASETS = Registry('dataset', parent=root.DATASETS, scope='vlm_dense', locations=_DATA)
TRANSFORMS = Registry('transform', parent=root.TRANSFORMS, scope='vlm_dense', locations=[*_DATA, 'vlm_dense.methods'])
METRICS = Registry(
    'metric',
    parent=root.METRICS,
    scope='vlm_dense',
    locations=[*_DETECTION, 'vlm_dense.classification', 'vlm_dense.engine', 'vlm_dense.segmentation'],
)
HOOKS = Registry(
    'hook',
    parent=root.HOOKS,
    scope='vlm_dense',
    locations=['vlm_dense.classification', 'vlm_dense.engine', 'vlm_dense.methods', 'vlm_dense.segmentation'],
)
OPTIM_WRAPPERS = Registry(
    'optim_wrapper', parent=root.OPTIM_WRAPPERS, scope='vlm_dense', locations=['vlm_dense.methods']
)
PARAM_SCHEDULERS = Registry(
    'parameter scheduler', parent=root.PARAM_SCHEDULERS, scope='vlm_dense', locations=['vlm_dense.methods']
)
