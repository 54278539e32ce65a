"""An exported file as a detector of mmdet; needs mmdet."""

from __future__ import annotations

import os

from mmdet.models.detectors import BaseDetector
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as ROOT_MODELS
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.export.runtime import ExportedFile
from vlm_dense.registry import MODELS


@MODELS.register_module()
class ExportedDetector(BaseDetector):
    """A single-stage detector with an exported file as network; boxes are decoded and suppressed by mmdet's head.

    Args:
        path: ``*.onnx`` or ``*.pt2``, see :func:`vlm_dense.inference.export_file`.

    Raises:
        CheckpointError, ConfigError: see :class:`vlm_dense.export.runtime.ExportedFile`.
    """

    def __init__(self, path: str | os.PathLike):
        file = ExportedFile(path)
        found = file.metadata
        super().__init__(data_preprocessor=dict(found['data_preprocessor'], _scope_='mmdet'))
        self.file = file
        with ROOT_MODELS.switch_scope_and_registry('mmdet') as registry:
            head = registry.build(dict(found['head'], test_cfg=ConfigDict(found['test_cfg'])))
        self.bbox_head = head.requires_grad_(False)
        self.levels = found['levels']

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list | None = None) -> tuple[list[Tensor], ...]:
        """Outputs of the head: of each kind the maps of all levels."""
        maps = self.file(batch_inputs)
        return tuple(list(maps[i : i + self.levels]) for i in range(0, len(maps), self.levels))

    def predict(self, batch_inputs: Tensor, batch_data_samples: list, rescale: bool = True) -> list:
        """Samples with ``pred_instances``, as of mmdet's ``SingleStageDetector``."""
        metas = [sample.metainfo for sample in batch_data_samples]
        found = self.bbox_head.predict_by_feat(*self._forward(batch_inputs), batch_img_metas=metas, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, found)

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Not available: an exported file gives what its head gives."""
        raise ConfigError('An exported detector gives no features. Use the model itself.')

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        """Not available: nothing in an exported file can be trained."""
        raise ConfigError('An exported detector cannot be trained. Train the model itself and export it again.')
