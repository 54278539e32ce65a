"""Models by name, built; the way to them from outside is ``vlm_dense.get_model``."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence

from mmengine.registry import DefaultScope
from torch import nn

from vlm_dense.colours import class_colours
from vlm_dense.engine.configs.checks import check_values
from vlm_dense.errors import ConfigError
from vlm_dense.inference.common import check_device
from vlm_dense.inference.maskclip_models import segmentor_config
from vlm_dense.inference.trained import build_trained
from vlm_dense.zoo import find_cards


def get_model(
    name: str | os.PathLike,
    pretrained: bool | str | os.PathLike = False,
    class_names: Sequence[str] | None = None,
    device: str | None = None,
) -> nn.Module:
    """Build a model by its name.

    Args:
        name: One of :func:`list_models`, one of :func:`free_names`, the path of a config, or ``hf-hub:OWNER/NAME``,
            MaskCLIP on a CLIP of open_clip's layout.
        pretrained: Path of a checkpoint; ``True``: the checkpoint that the metafile names, as ``bundled://NAME`` of one
            that comes with the package; ``False``: none. Whatever it
            is, the towers have the weights of the CLIP that the config names.
        class_names: Instead of those of the config and its data set. Heads get as many outputs.
        device: As torch names it. Default: the CPU.

    Returns:
        The model in eval mode. Its ``data_preprocessor`` normalises images as the config says; ``model.cfg`` is the
        config, with the ``test_pipeline``; ``model.dataset_meta['classes']`` are the names in label order.

    Raises:
        ConfigError: an unknown name; ``pretrained=True`` for a model without weights in its metafile.
        ClassNamesError: no names, or names that cannot be used.
        CheckpointError, WeightsNotFoundError: weights that are absent or do not fit.
    """
    name = os.fspath(name)
    weights = _weights(name) if pretrained is True else os.fspath(pretrained) if pretrained else None
    cfg = segmentor_config(name)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')), warnings.catch_warnings():
        warnings.filterwarnings('ignore', module='mmseg')  # advice on losses
        check_values(cfg)
        model, class_names = build_trained(cfg, weights, None, class_names)
    model.cfg, model.dataset_meta = cfg, dict(classes=tuple(class_names), palette=class_colours(class_names))
    return model.to(check_device(device) or 'cpu').eval()


def _weights(name: str) -> str:
    """The checkpoint that the metafile of a model names."""
    card = next((card for card in find_cards(name) if card.name == name), None)
    if card is None or card.weights is None:
        raise ConfigError(
            f'There is no checkpoint of {name} to get: its metafile names none. Train it (vlm-dense train {name}) '
            "and give pretrained='CHECKPOINT', or pretrained=False for the weights of the CLIP alone."
        )
    return card.weights
