"""From a config and a checkpoint to an exported file."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmseg.models.segmentors import BaseSegmentor
from torch import nn

from vlm_dense.classification.classifier import CLIPClassifier
from vlm_dense.datasets.config_checks import class_names
from vlm_dense.engine.runner.launch import fill_class_names
from vlm_dense.errors import ClassNamesError
from vlm_dense.export.trace import Size
from vlm_dense.export.write import export_model
from vlm_dense.inference.common import load_weights
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
        classes: Names of the classes; default: those of the config, the data set or the checkpoint. Models that were
            trained for certain classes take no others.
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
        return _classifier(cfg, checkpoint, classes)
    if inspect.isclass(kind) and issubclass(kind, BaseSegmentor):
        from vlm_dense.inference.seg_inferencer import SegInferencer

        inferencer = SegInferencer(cfg, checkpoint, 'cpu', show_progress=False)
        if hasattr(inferencer.model, 'set_class_names'):
            view = inferencer.view(classes)
            return view.model, view.class_names, inferencer.cfg
    else:
        from vlm_dense.inference.det_inferencer import DetInferencer

        inferencer = DetInferencer(cfg, checkpoint, 'cpu', show_progress=False)
    _check_same(classes, inferencer.class_names, kind.__name__)
    return inferencer.model, inferencer.class_names, inferencer.cfg


def _check_same(classes: ClassNames | None, own: Sequence[str], kind: str) -> None:
    if classes is not None and list(classes) != list(own):
        raise ClassNamesError(
            f'{kind} was trained for its {len(own)} classes ({", ".join(own[:5])}, ...) and takes no others, found '
            f'{len(classes)} ({", ".join(map(str, list(classes)[:5]))}, ...). Leave --classes out, or export a '
            'MaskCLIP model or a classifier.'
        )


def _classifier(cfg: Config, checkpoint: str | None, classes: ClassNames | None) -> tuple[nn.Module, list[str], Config]:
    fill_class_names(cfg)
    if classes is not None:
        cfg.model.class_names = list(classes)
    model = MODELS.build(cfg.model).eval()
    trained = load_weights(model, checkpoint, 'vlm-dense export') or class_names(cfg)
    names = list(model.class_names)
    if trained is not None and list(trained) != names and not _open_to_names(model, cfg):
        _check_same(names, list(trained), f'{type(model).__name__} with {_learned(model)}')
    return model, names, cfg


def _learned(model: CLIPClassifier) -> str:
    return f'{type(model.text_prompt).__name__}'


def _open_to_names(model: CLIPClassifier, cfg: Config) -> bool:
    """Whether nothing in the prompt or the head belongs to one class: other names change the shape of no weight."""
    names = [*model.class_names, 'another thing']
    prompt = model.build_part(cfg.model.text_prompt, names)
    head = model.build_part(cfg.model.get('head') or dict(type='vlm_dense.CosineHead'), names)
    own = [model.text_prompt, getattr(model, 'head', head)]
    return all(_shapes(one) == _shapes(other) for one, other in zip(own, (prompt, head), strict=True))


def _shapes(module: nn.Module) -> dict:
    return {name: tensor.shape for name, tensor in module.state_dict().items()}
