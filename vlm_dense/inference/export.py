"""From a config and a checkpoint to an exported file."""

from __future__ import annotations

import inspect
import os

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.models.segmentors.base import BaseSegmentor
from torch import nn

from vlm_dense.classification.classifier import CLIPClassifier
from vlm_dense.export.trace import Size
from vlm_dense.export.write import export_model
from vlm_dense.inference.class_inferencer import classifier_of
from vlm_dense.inference.maskclip_models import segmentor_config
from vlm_dense.methods.maskclip.head import ClassNames
from vlm_dense.registry import registered


def export_file(
    config: str | os.PathLike | Config,
    checkpoint: str | None,
    out: str | os.PathLike,
    classes: ClassNames | None = None,
    format: str | None = None,  # noqa: A002
    size: Size | None = None,
) -> dict:
    """Export a model with its prompts encoded into the weights: no text tower and no tokenizer are in the file.

    Args:
        config: A config, its path, its name in ``configs/``, or a model name of :class:`SegInferencer`.
        checkpoint: Of a model that was trained; None for models with weights that the config gives, as MaskCLIP.
        out: File to write, ``*.onnx`` or ``*.pt2``.
        classes: Names of the classes; default: those of the checkpoint, the config or the data set. A model that was
            trained for certain classes finds these, whatever they are called here.
        format, size: See :func:`export_model`.

    Returns:
        The metadata of the file.

    Raises:
        ClassNamesError: names that cannot be used, or other ones than those that the model was trained for.
        CheckpointError, WeightsNotFoundError: weights that are absent or do not fit.
        ConfigError, DataError: see :func:`export_model`.
    """
    name = None
    if not isinstance(config, Config):
        name = os.path.splitext(os.path.basename(os.fspath(config)))[0]
        config = segmentor_config(os.fspath(config))
    model, names, cfg = build_model(config, checkpoint, classes)
    return export_model(model, cfg, out, names, format, size, name)


def build_model(cfg: Config, checkpoint: str | None, classes: ClassNames | None) -> tuple[nn.Module, list[str], Config]:
    """The model of a config for some classes, a name of each class, and the config; arguments as above."""
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    kind = registered(MODELS, cfg.model['type'])
    if inspect.isclass(kind) and issubclass(kind, CLIPClassifier):
        return (*classifier_of(cfg, checkpoint, classes, 'vlm-dense export'), cfg)
    if inspect.isclass(kind) and issubclass(kind, BaseSegmentor):
        from vlm_dense.inference.seg_inferencer import SegInferencer

        inferencer = SegInferencer(cfg, checkpoint, 'cpu', classes, show_progress=False)
        view = inferencer.view(classes)
        return view.model, view.class_names, inferencer.cfg
    from vlm_dense.inference.det_inferencer import DetInferencer

    inferencer = DetInferencer(cfg, checkpoint, 'cpu', show_progress=False, classes=classes)
    return inferencer.model, inferencer.class_names, inferencer.cfg
