"""The result of a test as one JSON: every choice, the figures of every class, and which class was taken for which.

``vlm-dense test`` writes it as ``WORK_DIR/<time>/result.json``, ``compare-dense`` and ``ablate`` write one a cell into
``results/``, ``compare`` keeps the choices beside the metrics of its cells. Schema ``vlm_dense.result/1``:

- ``schema``, ``config``: the name of this schema, and of the config.
- ``choices``: see :func:`vlm_dense.comparison.choices.choices`.
- ``images``: their number.
- ``metrics``: as the metrics of the config report them, rounded as they do.
- ``mIoU``: mean over classes in percent, not rounded; of segmentation, as the two that follow.
- ``classes``: name -> IoU in percent, null for a class that is neither there nor predicted.
- ``confusion``: pixels, truth by prediction. A last row and column are labels that are no class, if there are any.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from torch import nn

from vlm_dense.comparison.choices import choices, infos_of
from vlm_dense.engine.files import atomic_write
from vlm_dense.engine.models import bare_model
from vlm_dense.errors import DataError
from vlm_dense.segmentation.confusion import ConfusionMatrix, class_ious, mean_iou
from vlm_dense.segmentation.oracles import OracleMetric

SCHEMA = 'vlm_dense.result/1'


def figures(matrix: np.ndarray, names: list[str]) -> dict[str, Any]:
    """``mIoU``, ``classes`` and ``confusion`` of a result.

    Args:
        matrix: As of :func:`vlm_dense.segmentation.confusion.confusion`.
        names: Of the classes.
    """
    ious = {name: _number(100 * float(iou)) for name, iou in zip(names, class_ious(matrix), strict=True)}
    outside = matrix[-1].any() or matrix[:, -1].any()
    shown = matrix if outside else matrix[:-1, :-1]
    return dict(mIoU=_number(mean_iou(matrix)), classes=ious, confusion=shown.tolist())


def make_result(
    cfg: Config, made: Mapping[str, Any], metrics: Mapping[str, Any], images: int, of_classes: Mapping[str, Any]
) -> dict[str, Any]:
    """A result.

    Args:
        cfg: Of the test.
        made: Its choices.
        metrics: Name -> figure.
        images: Number that were tested.
        of_classes: As of :func:`figures`; empty where there are none.
    """
    metrics = {name: value.item() if hasattr(value, 'item') else value for name, value in metrics.items()}
    told = {name: _number(value) for name, value in metrics.items() if isinstance(value, Real)}
    name = Path(cfg.filename).stem if cfg.filename else None
    return dict(schema=SCHEMA, config=name, choices=dict(made), images=images, metrics=told, **of_classes)


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def write_result(result: Mapping[str, Any], path: Path) -> None:
    """Write a result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(result, indent=1) + '\n', encoding='utf-8')


def read_result(path: Path) -> dict[str, Any]:
    """Read a result; of a folder the newest ``result.json`` in it.

    Raises:
        DataError: there is none, or it is none.
    """
    if path.is_dir():
        found = sorted(path.rglob('result.json'), key=lambda one: one.stat().st_mtime)
        if not found:
            raise DataError(f'{path} holds no result.json. Give the work dir of a test, or a file.')
        path = found[-1]
    try:
        result = json.loads(path.read_text('utf-8'))
    except (OSError, ValueError) as error:
        raise DataError(f'{path} is no result of a test: {error}') from error
    if not isinstance(result, dict) or result.get('schema') != SCHEMA or not isinstance(result.get('choices'), dict):
        raise DataError(
            f'{path} is no result of a test: expected a JSON with "schema": "{SCHEMA}" and "choices", as `vlm-dense '
            'test` and `compare-dense` write it.'
        )
    return result


class ResultHook(Hook):
    """Writes the result of a test into the folder of its logs.

    Args:
        oracles: Add the figures of :class:`~vlm_dense.segmentation.OracleMetric`; scores are kept then.
    """

    priority = 'VERY_LOW'

    def __init__(self, oracles: bool = False):
        self.oracles = oracles
        self.counted: ConfusionMatrix | None = None
        self.made: dict[str, Any] = {}

    def before_test(self, runner: Runner) -> None:
        """Collect the choices, and count the pixels of a test that reports IoU."""
        model, loop = bare_model(runner), runner.test_loop
        dataset = loop.dataloader.dataset
        if is_main_process():
            self.made = choices(runner.cfg, model, infos_of(dataset))
        iou = next((m for m in loop.evaluator.metrics if isinstance(m, IoUMetric) and not m.format_only), None)
        if iou is None:
            return
        self.counted = ConfusionMatrix(iou.ignore_index)
        self._add(runner, self.counted)
        if self.oracles:
            _keep_scores(model)
            self._add(runner, OracleMetric(ignore_index=iou.ignore_index))

    def _add(self, runner: Runner, metric: ConfusionMatrix | OracleMetric) -> None:
        evaluator = runner.test_loop.evaluator
        metric.dataset_meta = evaluator.dataset_meta
        evaluator.metrics.append(metric)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the result."""
        if not is_main_process():
            return
        dataset, of_classes = runner.test_loop.dataloader.dataset, {}
        if self.counted is not None:
            of_classes = figures(self.counted.matrix, list(dataset.metainfo['classes']))
        path = Path(runner.log_dir) / 'result.json'
        write_result(make_result(runner.cfg, self.made, metrics or {}, len(dataset), of_classes), path)
        print_log(f'Every choice behind these figures: {path}', logger='current')


def _keep_scores(model: nn.Module) -> None:
    """Let a segmentor keep the scores of its classes."""
    model = getattr(model, 'module', model)
    if getattr(model, 'test_cfg', None) is not None:
        model.test_cfg['keep_logits'] = True
    if hasattr(model, 'variants'):
        model.variants = {}
