"""Valid names in a config: keys that are read somewhere, and the classes of its types."""

from __future__ import annotations

import inspect

from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    EVALUATOR,
    HOOKS,
    LOG_PROCESSORS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISUALIZERS,
)
from mmengine.runner import FlexibleRunner, Runner

from vlm_dense import light

READ_KEYS = {
    *inspect.signature(Runner.__init__).parameters,
    *inspect.signature(FlexibleRunner.__init__).parameters,
    'custom_imports',
    'data_root',
    'find_unused_parameters',
    'model_wrapper_cfg',
    'runner_type',
    'sync_bn',
    'targets',
    'tower',
    'tta_model',
    'tta_pipeline',
} - {'self', 'cfg'}
"""Keys at the top of a config that something reads; others are variables of the file."""

_REGISTRIES = (
    MODELS,
    DATASETS,
    TRANSFORMS,
    METRICS,
    HOOKS,
    LOOPS,
    OPTIM_WRAPPERS,
    OPTIMIZERS,
    PARAM_SCHEDULERS,
    DATA_SAMPLERS,
    EVALUATOR,
    VISUALIZERS,
    LOG_PROCESSORS,
)


def component(kind, scope: str | None) -> type | None:
    """The class that a ``type`` names, in whatever registry it is."""
    if not isinstance(kind, str):
        return kind
    certain = True
    for registry in _REGISTRIES:
        with registry.switch_scope_and_registry(scope) as scoped:
            found, sure = light.search(scoped, kind)
        if found is not None:
            return found
        certain = certain and sure
    for registry in () if certain else _REGISTRIES:
        with registry.switch_scope_and_registry(scope) as scoped:
            try:
                found = scoped.get(kind)
            except Exception:  # an unknown name is reported when it is built
                found = None
        if found is not None:
            return found
    return None


def takes_anything(kind) -> bool:
    """Whether the last constructor in line passes unknown arguments on to something that is no base class."""
    parameters = []
    for cls in inspect.getmro(kind) if inspect.isclass(kind) else [kind]:
        try:
            parameters = inspect.signature(cls.__init__ if inspect.isclass(cls) else cls).parameters.values()
        except (TypeError, ValueError):
            return True
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return False
    return True
