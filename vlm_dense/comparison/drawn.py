"""Drawn data sets without configs of their own: those of Shapes with 64 classes in one domain.

``pairs-sketch`` is ``<method>_shapes.py`` with classes 'red circle' to 'pink heart' on sketches; the base half is that
of circle, square, triangle and star. Where training leaves the image tower alone, its features replace the images.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from mmengine.registry import MODELS

from vlm_dense.contract.roles import ImagePrompt
from vlm_dense.datasets.scenes import DOMAINS
from vlm_dense.registry import registered

PAIRS = {f'pairs-{domain}': domain for domain in DOMAINS}
"""Name of the data set -> domain."""

_SCENES = dict(train=2000, val=1000, test=400)
_LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def with_pairs(cfg: dict, dataset: str) -> dict:
    """The config for Shapes of a method, on another drawn data set.

    Args:
        cfg: As it is read from the file.
        dataset: Of :data:`PAIRS`.
    """
    cfg, domain = copy.deepcopy(cfg), PAIRS[dataset]
    for node in dicts(cfg):
        if str(node.get('type')).endswith('ShapesDataset'):
            split = node.get('split', 'train')
            node.update(label='shape_colour', domain=domain, num_scenes=_SCENES[split])
        if 'shifts' in node:  # test sets of a robustness curve, on top of what is asked
            node['shifts'] = {}
    cfg['source'] = dict(domain='source')
    cfg['domains'] = {name: dict(domain=name) for name in DOMAINS if name != 'source'}
    cfg['targets'] = {label: dict(label=label) for label in ('shape', 'colour')}
    if _leaves_images_alone(cfg['model']):
        _use_features(cfg)
    return cfg


def dicts(node) -> Iterator[dict]:
    """All dicts inside of a config."""
    if isinstance(node, dict):
        yield node
        node = node.values()
    if not isinstance(node, str) and hasattr(node, '__iter__'):
        for value in node:
            yield from dicts(value)


def _leaves_images_alone(model: dict) -> bool:
    head = registered(MODELS, (model.get('head') or dict(type='vlm_dense.CosineHead'))['type'])
    prompts = issubclass(registered(MODELS, model['text_prompt']['type']), ImagePrompt) or 'image_prompt' in model
    trains = model.get('trainable') or not model.get('frozen_backbone', True)
    return not (prompts or trains or 'test_time' in model or 'images' in head.features)


def _use_features(cfg: dict) -> None:
    hooks = cfg.setdefault('default_hooks', {})
    prepare = hooks.setdefault('prepare', dict(type='vlm_dense.PrepareHook'))
    loaders = [cfg.get(name) for name in _LOADERS] + list((prepare.get('data') or {}).values())
    for loader in loaders:
        if loader and loader['dataset']['type'] != 'vlm_dense.FeatureDataset':
            copies = 4 if loader is cfg.get('train_dataloader') else 1
            loader['dataset'] = dict(type='vlm_dense.FeatureDataset', copies=copies, dataset=loader['dataset'])
