"""Registries that only the engine fills; see ``vlm_dense.registry`` for the others."""

from mmengine import registry as root

from vlm_dense.registry import Registry

_ENGINE = ['vlm_dense.engine.components']

DATA_SAMPLERS = Registry('data sampler', parent=root.DATA_SAMPLERS, scope='vlm_dense', locations=_ENGINE)
LOOPS = Registry('loop', parent=root.LOOPS, scope='vlm_dense', locations=_ENGINE)
MODEL_WRAPPERS = Registry('model_wrapper', parent=root.MODEL_WRAPPERS, scope='vlm_dense', locations=_ENGINE)
