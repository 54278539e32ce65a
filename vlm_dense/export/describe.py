"""The description of a model that goes into its exported file."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from mmengine.config import Config
from torch import nn

import vlm_dense
from vlm_dense.colours import class_colours
from vlm_dense.engine.configs.pipelines import preparing_steps
from vlm_dense.errors import ConfigError
from vlm_dense.export.metadata import FORMAT, HEADS, STEPS, unknown_parts
from vlm_dense.segmentation.window_maps import ACTIVATIONS

_PREPROCESSING = ('type', 'mean', 'std', 'bgr_to_rgb', 'rgb_to_bgr', 'pad_val', 'seg_pad_val', 'size', 'size_divisor')
_PREPROCESSING = (*_PREPROCESSING, 'test_cfg', 'pad_size_divisor', 'pad_value', 'pad_mask', 'mask_pad_value')


def describe(model: nn.Module, cfg: Config, names: Sequence[str], task: str, config: str | None) -> dict:
    """The metadata of a model, without what depends on the format of the file.

    Args:
        model: The model.
        cfg: Its config, with ``model`` and the pipeline.
        names: A name of each class, in label order.
        task: Of the graph.
        config: Name of the config.

    Raises:
        ConfigError: a step, a preprocessor or a head that a reader of the file would not know.
    """
    given = cfg.model.get('data_preprocessor') or dict(type='SegDataPreProcessor')
    found = dict(
        format=FORMAT,
        task=task,
        model=type(model).__name__,
        config=config,
        vlm_dense=vlm_dense.__version__,
        torch=torch.__version__,
        classes=list(names),
        palette=[list(c) for c in class_colours(names)],
        pipeline=preparing_steps(cfg),
        data_preprocessor={k: v for k, v in given.items() if k in _PREPROCESSING},
    )
    found |= dict(segmentation=_of_segmentor, detection=_of_detector, classification=_of_classifier)[task](model, cfg)
    found = json.loads(json.dumps(found))  # tuples become lists, and values that are no JSON raise here
    wrong = list(unknown_parts(found))
    if wrong:
        raise ConfigError(
            f'{config or "The config"} uses {", ".join(wrong)}, which an exported file cannot describe. Known steps '
            f'are {", ".join(STEPS)}, known heads of detectors {", ".join(HEADS)}.'
        )
    return found


def _of_segmentor(model: nn.Module, cfg: Config) -> dict:
    head, maps = model.decode_head, model.class_maps(torch.empty(0))
    names = getattr(head, 'class_names', None) if hasattr(head, 'scale') else None
    return dict(
        names=None if names is None else [list(aliases) for aliases in names],
        test_cfg={k: v for k, v in (model.test_cfg or {}).items() if k != 'keep_logits'},
        align_corners=head.align_corners,
        num_classes=head.num_classes,
        out_channels=head.out_channels,
        threshold=head.threshold,
        activation=next((name for name, one in ACTIVATIONS.items() if one is model.activation), None),
        maps=dict(kind=maps.kind, scale=maps.scale, of_names=maps.classes is not None, background=maps.background),
        postprocess=[step.config for step in model.postprocess.steps],
    )


def _of_detector(model: nn.Module, cfg: Config) -> dict:
    head = {k: v for k, v in cfg.model.bbox_head.items() if k not in ('init_cfg', 'train_cfg', 'test_cfg')}
    return dict(head=dict(head, num_classes=model.bbox_head.num_classes), test_cfg=model.test_cfg)


def _of_classifier(model: nn.Module, cfg: Config) -> dict:
    return {}
