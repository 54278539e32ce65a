"""Exported files as models of mmseg and mmdet, with the windows, thresholds and boxes of those that they come from."""

from __future__ import annotations

import os

import torch
from mmengine.config import Config, ConfigDict
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.segmentors.base import BaseSegmentor
from torch import Tensor

from vlm_dense.errors import CheckpointError, ConfigError
from vlm_dense.export.metadata import with_tuples
from vlm_dense.export.runtime import ExportedFile
from vlm_dense.methods.maskclip import older
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.inference import BatchedInference
from vlm_dense.segmentation.postprocess import PostProcess
from vlm_dense.segmentation.steps import ClassMaps
from vlm_dense.segmentation.window_maps import ACTIVATIONS

_DATA_SETS = dict(segmentation='BaseSegDataset', detection='mmdet.BaseDetDataset')


def exported_config(path: str | os.PathLike, task: str) -> Config:
    """The config of an exported file, for the inferencer of a task.

    Raises:
        ConfigError: a file of another task.
        CheckpointError: see :class:`ExportedFile`.
    """
    path = os.fspath(path)
    found = ExportedFile(path).metadata
    if found['task'] != task:
        raise ConfigError(
            f'{path} is a file for {found["task"]}, expected one for {task}. SegInferencer, DetInferencer and '
            'ExportedClassifier take one kind each.'
        )
    kind = dict(segmentation='ExportedSegmentor', detection='ExportedDetector')[task]
    data = dict(type=_DATA_SETS[task], metainfo=dict(classes=found['classes']), pipeline=with_tuples(found['pipeline']))
    return Config(dict(model=dict(type=f'vlm_dense.{kind}', path=path), test_dataloader=dict(dataset=data)))


class _Head(BaseDecodeHead):
    """Stand-in for a decode head with the attributes that the inference of segmentors reads."""

    def __init__(self, found: dict):
        super().__init__(
            1,
            1,
            num_classes=found['num_classes'],
            out_channels=found['out_channels'],
            threshold=found['threshold'],
            align_corners=found['align_corners'],
        )
        del self.conv_seg
        self.class_names = tuple(tuple(aliases) for aliases in found['names'] or [[name] for name in found['classes']])

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs


def _older_steps(found: dict) -> list:
    """The steps in the description of a file of format 1."""
    steps = older.postprocess([], {name: found[name] for name in older.OF_MODEL})
    return [step for step in steps if found['pamr'] is None or type(step).__name__ != 'Probabilities']


def _older_maps(found: dict) -> dict:
    """Kind of the maps of a file of format 1: its network gave probabilities where PAMR refined them."""
    kind = 'probabilities' if found['pamr'] else 'weights' if found['summed'] else 'logits'
    return dict(kind=kind, scale=found['scale'] or 1.0, of_names=found['decision'] is not None, background=None)


@MODELS.register_module()
class ExportedSegmentor(BatchedInference, BaseSegmentor):
    """A segmentor with an exported file as network; windows, refinement and thresholds are those of its model.

    Args:
        path: ``*.onnx`` or ``*.pt2``, see :func:`vlm_dense.inference.export_file`.
        test_cfg: Instead of that of the model, see :class:`BatchedInference`.

    Raises:
        CheckpointError, ConfigError: see :class:`vlm_dense.export.runtime.ExportedFile`.
    """

    def __init__(self, path: str | os.PathLike, test_cfg: dict | None = None):
        file = ExportedFile(path)
        found = file.metadata
        super().__init__(data_preprocessor=found['data_preprocessor'])
        self.file = file
        try:
            self.decode_head = _Head(found)
            self.align_corners = found['align_corners']
            self.num_classes, self.out_channels = found['num_classes'], found['out_channels']
            self.test_cfg = ConfigDict(test_cfg or dict(found['test_cfg'], keep_logits=False))
            steps = found['postprocess'] if 'postprocess' in found else _older_steps(found)
            self.postprocess = PostProcess(with_tuples(steps))
            self.activation = ACTIVATIONS[found['activation']] if found.get('activation') else None
            self._maps = found['maps'] if 'maps' in found else _older_maps(found)
            self.class_maps(torch.empty(0))
        except (KeyError, TypeError) as error:
            raise CheckpointError(f'The description inside {path} is damaged ({error!r}). Export it again.') from error

    def _forward(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        return self.file(inputs)[0]

    def class_maps(self, values: Tensor) -> ClassMaps:
        """Kind of the maps of the file, as declared by its model."""
        maps = self._maps
        classes = self.decode_head.class_names if maps['of_names'] else None
        return ClassMaps(values, maps['scale'], classes, kind=maps['kind'], background=maps['background'])

    def encode_decode(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Maps (B, K, H, W) at the size of images (B, 3, H, W)."""
        return self.decode_head.predict_by_feat(self._forward(inputs), batch_img_metas)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Not available: an exported file gives maps of classes only."""
        raise ConfigError('An exported segmentor gives maps of classes, no features. Use the model itself.')

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Not available: nothing in an exported file can be trained."""
        raise ConfigError('An exported segmentor cannot be trained. Train the model itself and export it again.')
