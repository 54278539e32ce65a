"""Models by name, built; :func:`vlm_dense.get_model` is the way to them."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from vlm_dense.colours import class_colours
from vlm_dense.engine.configs.checks import check_values, class_names, count_classes, registered
from vlm_dense.engine.runner.launch import fill_class_names
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.inference.common import check_device, load_weights
from vlm_dense.inference.maskclip_models import segmentor_config
from vlm_dense.vocabulary.class_names import check_names
from vlm_dense.zoo import find_cards


def build_model(
    name: str | os.PathLike,
    pretrained: bool | str | os.PathLike = False,
    names: Sequence[str] | None = None,
    device: str | None = None,
) -> nn.Module:
    """Build a model by its name; see :func:`vlm_dense.get_model`."""
    name = os.fspath(name)
    weights = _weights(name) if pretrained is True else os.fspath(pretrained) if pretrained else None
    cfg = segmentor_config(name)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')), warnings.catch_warnings():
        warnings.filterwarnings('ignore', module='mmseg')  # advice on losses
        check_values(cfg)
        if names is None:
            fill_class_names(cfg)
            names = cfg.model.get('class_names') or class_names(cfg)
        else:
            give_names(cfg, names)
        if not names:
            raise ClassNamesError(f"{name} has no class names of its own. Give class_names=['sky', 'road', 'car'].")
        model = MODELS.build(cfg.model)
    if weights is not None:
        names = load_weights(model, weights, 'get_model') or names
    model.cfg, model.dataset_meta = cfg, dict(classes=tuple(names), palette=class_colours(names))
    return model.to(check_device(device) or 'cpu').eval()


def give_names(cfg: Config, names: Sequence[str]) -> None:
    """Put class names in the place of those that a config and its data set have.

    Raises:
        ClassNamesError: names that cannot be used.
    """
    kind = registered(MODELS, cfg.model['type'])
    check_names(names, getattr(kind, 'repeated_names', False))
    count_classes(cfg, len(names))
    if 'class_names' in inspect.signature(kind).parameters:
        cfg.model['class_names'] = list(names)


def _weights(name: str) -> str:
    """The checkpoint that the metafile of a model names."""
    card = next((card for card in find_cards(name) if card.name == name), None)
    if card is None or card.weights is None:
        raise ConfigError(
            f'There is no checkpoint of {name} to get: its metafile names none. Train it (vlm-dense train {name}) '
            "and give pretrained='CHECKPOINT', or pretrained=False for the weights of the CLIP alone."
        )
    return card.weights
