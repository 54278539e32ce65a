"""What a segmentor says of an image, in the image's original size, a strip of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from mmengine.structures import PixelData
from mmseg.models import SegTTAModel
from torch import Tensor, nn

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.strips import Enlargement, channels_last, strips

Box = tuple[int, int, int, int]
"""Window (y1, y2, x1, x2) of an image."""
Piece = tuple[Box, Tensor]
"""A window and its map (K, h, w) as it comes from the head."""


class StripMaps:
    """Maps of an image in original size, of which only small ones are kept.

    Windows are enlarged and averaged where they overlap; padding is taken off, a flip undone, and the result brought to
    the original size, as mmseg does it with whole maps.

    Args:
        pieces: Windows and their maps; the last ends in the lower right corner of the image.
        meta: Metainfo of the sample: ``ori_shape``, ``flip``, ``flip_direction``, ``img_padding_size``,
            ``padding_size``.
        align_corners: Of every enlargement.

    Attributes:
        size: (H, W), the original size.
        channels: K.
        device: Where the maps are.
    """

    def __init__(self, pieces: Sequence[Piece], meta: dict, align_corners: bool = False):
        self._windows = []
        for box, maps in pieces:
            small, size = channels_last(maps[None]), (box[1] - box[0], box[3] - box[2])
            self._windows.append((box, small, Enlargement(small.shape[1:3], size, align_corners, small.device)))
        self.channels, self.device = small.shape[3], small.device
        height, width = pieces[-1][0][1], pieces[-1][0][3]
        left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
        self._top, self._left, inner = top, left, (height - top - bottom, width - left - right)
        self._inner, self._flip = inner, meta.get('flip_direction') if meta.get('flip') else None
        self.size = tuple(meta.get('ori_shape', inner)[:2])
        self._to_original = None
        if self.size != inner:
            self._to_original = Enlargement(inner, self.size, align_corners, self.device)

    def strips(self) -> Iterator[tuple[slice, Tensor]]:
        """Rows and their maps (n, W, K), float32, from top to bottom."""
        for _, rows in strips(1, self.size, self.channels, self.device):
            yield rows, self.rows(rows)

    def rows(self, rows: slice) -> Tensor:
        """Maps (n, W, K) of some rows."""
        if self._to_original is None:
            return self._inner_rows(rows)
        return self._to_original(self._inner_rows(self._to_original.source(rows))[None], rows)[0]

    def argmax(self) -> Tensor:
        """Labels (H, W), int64; of classes that tie the first."""
        return torch.cat([maps.argmax(dim=-1) for _, maps in self.strips()])

    def _inner_rows(self, rows: slice) -> Tensor:
        """Rows of the image without padding, not flipped."""
        height, width = self._inner
        if self._flip == 'vertical':
            rows = slice(height - rows.stop, height - rows.start)
        maps = self._image_rows(slice(self._top + rows.start, self._top + rows.stop))
        maps = maps[:, self._left : self._left + width]
        return maps if self._flip is None else maps.flip(1 if self._flip == 'horizontal' else 0)

    def _image_rows(self, rows: slice) -> Tensor:
        """Rows of the image as the network saw it."""
        if len(self._windows) == 1:
            _, small, enlargement = self._windows[0]
            return enlargement(small[:, enlargement.source(rows)], rows)[0]
        width = self._windows[-1][0][3]
        total = torch.zeros((rows.stop - rows.start, width, self.channels), device=self.device)
        counts = torch.zeros((rows.stop - rows.start, width, 1), device=self.device)
        for (y1, y2, x1, x2), small, enlargement in self._windows:
            start, stop = max(rows.start, y1), min(rows.stop, y2)
            if start >= stop:
                continue
            inside, own = slice(start - rows.start, stop - rows.start), slice(start - y1, stop - y1)
            total[inside, x1:x2] += enlargement(small[:, enlargement.source(own)], own)[0]
            counts[inside, x1:x2] += 1
        return total.div_(counts)


@MODELS.register_module()
class StripTTAModel(SegTTAModel):
    """mmseg's test-time augmentation, for the segmentors of this package, without maps at full size.

    Labels are those of the mean probability over the augmented images (softmax, or sigmoid for one channel), as with
    ``mmseg.SegTTAModel``. Samples get ``pred_sem_seg`` only.

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

    def _labels(self, views: Sequence[StripMaps]) -> Tensor:
        """Labels (H, W), int64, of one image."""
        found = []
        for rows, first in views[0].strips():
            mean = sum((_probabilities(v.rows(rows)) for v in views[1:]), _probabilities(first)) / len(views)
            if mean.shape[-1] == 1:
                found.append((mean[..., 0] > self.module.decode_head.threshold).long())
            else:
                found.append(mean.argmax(dim=-1))
        return torch.cat(found)


def _probabilities(maps: Tensor) -> Tensor:
    return maps.sigmoid() if maps.shape[-1] == 1 else maps.softmax(dim=-1)


def _augmentations(data: dict | Sequence) -> list:
    """A batch of test-time augmented images as one batch for each augmentation."""
    if isinstance(data, dict):
        return [dict(zip(data, values, strict=True)) for values in zip(*data.values(), strict=True)]
    return [list(values) for values in zip(*data, strict=True)]
