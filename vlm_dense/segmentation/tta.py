"""Test-time augmentation of segmentors without maps at full size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from mmengine.structures import PixelData
from mmseg.models.segmentors.seg_tta import SegTTAModel
from torch import Tensor, nn

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.postprocess import Describe
from vlm_dense.segmentation.window_maps import StripMaps


@MODELS.register_module()
class StripTTAModel(SegTTAModel):
    """mmseg's test-time augmentation, for the segmentors of this package, without maps at full size.

    Labels are those of the mean probability over the augmented images (softmax, or sigmoid for one channel), as with
    ``mmseg.SegTTAModel``; maps that hold probabilities are averaged as they are. Samples get ``pred_sem_seg`` only.

    Args:
        module: A segmentor with :class:`~vlm_dense.segmentation.inference.BatchedInference`.
        data_preprocessor: As in mmengine.

    Raises:
        ConfigError: another segmentor.
    """

    def __init__(self, module: dict | nn.Module, data_preprocessor: dict | nn.Module | None = None):
        super().__init__(module, data_preprocessor)
        if not hasattr(self.module, 'strip_maps'):
            raise ConfigError(
                f'StripTTAModel: {type(self.module).__name__} is no segmentor of vlm_dense; use '
                "tta_model=dict(type='mmseg.SegTTAModel') for it."
            )

    def test_step(self, data: dict | list) -> list:
        """Samples of a batch with ``pred_sem_seg``; ``data`` as ``TestTimeAug`` packs it."""
        maps, samples = [], []
        for one in _augmentations(data):
            one = self.module.data_preprocessor(one, False)
            samples.append(one['data_samples'])
            maps.append(self.module.strip_maps(one['inputs'], one['data_samples']))
        for sample, *views in zip(samples[0], *maps, strict=True):
            sample.set_data(dict(pred_sem_seg=PixelData(data=self._labels(views)[None])))
        return samples[0]

    def _labels(self, views: Sequence[tuple[StripMaps, Describe]]) -> Tensor:
        """Labels (H, W), int64, of one image."""
        found = []
        for rows, first in views[0][0].strips():
            every = [first, *(strips.rows(rows) for strips, _ in views[1:])]
            mean = sum(_probabilities(x, describe) for x, (_, describe) in zip(every, views, strict=True)) / len(views)
            if len(mean) == 1:
                found.append((mean[0] > self.module.decode_head.threshold).long())
            else:
                found.append(mean.argmax(dim=0))
        return torch.cat(found)


def _probabilities(rows: Tensor, describe: Describe) -> Tensor:
    """Probabilities (n, m, W) of rows (m, W, n); cosines count as logits, as in mmseg."""
    return replace(describe(rows.movedim(-1, 0)[None]), scale=1.0).probabilities[0]


def _augmentations(data: dict | Sequence) -> list:
    """A batch of test-time augmented images as one batch for each augmentation."""
    if isinstance(data, dict):
        return [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    return [list(values) for values in zip(*data, strict=True)]
