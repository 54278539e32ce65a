"""Registries of scope ``vlm_dense``, children of mmengine's root registries.

``type='vlm_dense.X'`` resolves in any mm config with no ``custom_imports``:
mmengine imports ``vlm_dense.registry`` when it meets the scope, and each
registry imports its ``locations`` when a name is first looked up.
"""

from __future__ import annotations

from importlib.util import find_spec

from vlm_dense.errors import ConfigError, unknown_name
from vlm_dense.libraries import need_mm

need_mm()

from mmengine import registry as root  # noqa: E402


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
    locations=[*_DETECTION, 'vlm_dense.classification', 'vlm_dense.engine.components', 'vlm_dense.segmentation'],
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
    'parameter scheduler', parent=root.PARAM_SCHEDULERS, scope='vlm_dense', locations=['vlm_dense.methods']
)
