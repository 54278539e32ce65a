"""Pipelines of a config: which steps read files, and which prepare an image that is there."""

from __future__ import annotations

from mmengine.config import Config

from vlm_dense.errors import ConfigError

_READING = (
    'DrawScene',
    'LoadImage',
    'LoadImageFromFile',
    'LoadAnnotations',
    'LoadMask',
    'LoadWideMask',
    'LoadPanopticAnnotations',
    'CheckSeg',
    'FilterAnnotations',
)


def is_reading(step: dict) -> bool:
    """Whether a step of a pipeline reads images or annotations."""
    return step['type'].rpartition('.')[2] in _READING


def preparing_steps(cfg: Config) -> list[dict]:
    """The test pipeline of a config without what reads images and annotations.

    Raises:
        ConfigError: there is none.
    """
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    steps = dataset.get('pipeline') or cfg.get('test_pipeline')
    if not steps:
        raise ConfigError('The config has no test_pipeline, so it is unknown how images are to be prepared.')
    return [step for step in steps if not is_reading(step)]
