"""Testing of segmentors: windows in batches, images of different size in one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import groupby

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models import EncoderDecoder, SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS, unknown_name
from vlm_dense.segmentation.strip_maps import Box, Piece, StripMaps
from vlm_dense.segmentation.strips import use_strips

_CLASSES_AT_ONCE = 8


@MODELS.register_module()
class MixedSizeSegDataPreProcessor(SegDataPreProcessor):
    """mmseg's, which also takes test images of different size in one batch.

    Such a batch is padded at the right and bottom to its largest image, and each sample's metainfo ``img_shape`` still
    tells its own size, which is what :class:`BatchedInference` goes by: the padding is never seen by the model.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """As in mmseg: ``inputs`` (B, C, H, W) normalised, and ``data_samples``."""
        if not training and self.test_cfg is None and not isinstance(data['inputs'], Tensor):
            sizes = [tuple(x.shape[-2:]) for x in data['inputs']]
            if len(set(sizes)) > 1:
                return self._forward_mixed(data, sizes)
        return super().forward(data, training)

    def _forward_mixed(self, data: dict, sizes: list[tuple[int, int]]) -> dict:
        height, width = (max(s) for s in zip(*sizes, strict=True))
        samples = data.get('data_samples') or [SegDataSample() for _ in sizes]
        one_by_one = [
            super(MixedSizeSegDataPreProcessor, self).forward({'inputs': [x], 'data_samples': [s]})
            for x, s in zip(data['inputs'], samples, strict=True)
        ]
        batch = one_by_one[0]['inputs'].new_zeros((len(sizes), one_by_one[0]['inputs'].shape[1], height, width))
        for i, (h, w) in enumerate(sizes):
            batch[i, :, :h, :w] = one_by_one[i]['inputs'][0]
        samples = [s for part in one_by_one for s in part['data_samples']]
        for sample, size in zip(samples, sizes, strict=True):
            sample.set_metainfo({'img_shape': size})
            if 'ori_shape' not in sample.metainfo:
                sample.set_metainfo({'ori_shape': size})
        return {'inputs': batch, 'data_samples': samples}


_TEST_KEYS = ('mode', 'crop_size', 'stride', 'window_batch_size', 'window_multiple', 'keep_logits')


def check_test_cfg(test_cfg: dict) -> None:
    """Look whether the ``test_cfg`` of :class:`BatchedInference` can work.

    Raises:
        ConfigError: an unknown key or mode; windows that are absent, no pair of positive integers, or leave gaps.
    """
    for key in test_cfg:
        if key not in _TEST_KEYS:
            raise ConfigError(unknown_name(key, 'options of test_cfg', _TEST_KEYS))
    mode = test_cfg.get('mode', 'whole')
    if mode not in ('whole', 'slide'):
        raise ConfigError(f"test_cfg.mode must be 'whole' or 'slide', found {mode!r}.")
    windows = test_cfg.get('window_batch_size', 8)
    if not isinstance(windows, int) or windows < 1:
        raise ConfigError(f'test_cfg.window_batch_size must be an integer of at least 1, found {windows!r}.')
    multiple = test_cfg.get('window_multiple')
    if multiple is not None and (mode == 'whole' or not isinstance(multiple, int) or multiple < 1):
        raise ConfigError(
            f"test_cfg.window_multiple is a positive integer, for mode='slide', found {multiple!r} in mode {mode!r}."
        )
    if mode == 'slide':
        crop, stride = (_pair(test_cfg, key) for key in ('crop_size', 'stride'))
        if any(s > c for s, c in zip(stride, crop, strict=True)):
            raise ConfigError(
                f'test_cfg.stride must not be larger than test_cfg.crop_size, or pixels between the windows would be '
                f'seen by none; found stride {stride} and crop_size {crop}.'
            )


def _pair(test_cfg: dict, key: str) -> tuple[int, int]:
    value = test_cfg.get(key)
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(isinstance(v, int) and v > 0 for v in value):
        raise ConfigError(f'test_cfg.{key} must be (height, width), two positive integers, found {value!r}.')
    return tuple(value)


class BatchedInference:
    """Mixin of mmseg segmentors with a test loop that does not depend on how images are batched.

    ``test_cfg`` keys: ``mode`` (``'whole'`` or ``'slide'``), ``crop_size`` and ``stride`` (h, w) for slide,
    ``window_batch_size``, the number of windows that go through the network at once (default 8), and ``keep_logits``
    (default true). Windows are placed as in mmseg: a regular grid, the last row and column shifted back inside the
    image; logits are averaged where windows overlap. With ``window_multiple`` a window whose side is no multiple of it
    is padded evenly with zeros, and its maps are cut back. With ``keep_logits=False`` samples get ``pred_sem_seg``
    only: the same label map, but a few rows at a time are brought to full size (a few classes, where maps are refined
    on the pixels), so that memory does not grow with the number of classes. The class must define
    ``encode_decode(inputs, batch_img_metas)``.

    Attributes:
        by_windows: Whether labels follow from :meth:`_window_map` of each window and what this class does with it.

    The decode heads take their losses strip by strip as well, see
    :func:`~vlm_dense.segmentation.strips.use_strips`.
    """

    by_windows = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        use_strips(self)

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """Segment a batch.

        Args:
            inputs: (B, 3, H, W). An image smaller than (H, W) fills the top left corner; its own size is the
                metainfo's ``img_shape`` unless the data preprocessor padded it on purpose.
            data_samples: B samples with metainfo, or ``None``.

        Returns:
            B samples with ``seg_logits`` and ``pred_sem_seg`` in original size.
        """
        if data_samples is None:
            return self.postprocess_result(self.inference(inputs, [{}] * len(inputs)), None)
        order, images = own_sizes(inputs, data_samples)
        if self._mode() == 'whole' and self._keep_logits():
            for _, same in groupby(zip(order, images, strict=True), key=lambda pair: pair[1].shape):
                ids, batch = zip(*same, strict=True)
                self.postprocess_result(self._whole(torch.stack(batch)), [data_samples[i] for i in ids])
            return data_samples
        for n, pieces in self._maps(images, self._window_map):
            sample, refine = data_samples[order[n]], self._refinement(images[n])
            if self._keep_logits():
                self.postprocess_result(self._join(pieces, refine)[None], [sample])
            else:
                labels = self._label_map(pieces, sample.metainfo, refine)
                sample.set_data(dict(pred_sem_seg=PixelData(data=labels[None])))
        return data_samples

    def strip_maps(self, inputs: Tensor, data_samples: list) -> list[StripMaps]:
        """Maps of each image in original size, a few rows at a time; arguments as of :meth:`predict`.

        Maps that are refined on the pixels are whole, and at the size of the image.
        """
        order, images = own_sizes(inputs, data_samples)
        found: dict[int, StripMaps] = {}
        for n, pieces in self._maps(images, self._window_map):
            refine = self._refinement(images[n])
            if refine is not None:
                maps = self._join(pieces, refine)
                pieces = [((0, maps.shape[1], 0, maps.shape[2]), maps)]
            found[order[n]] = StripMaps(pieces, data_samples[order[n]].metainfo, self.align_corners)
        return [found[i] for i in range(len(data_samples))]

    @classmethod
    def check_config(cls, model: dict) -> None:
        """Look whether the config of a model can work, before it is built; the engine's checks of configs call it.

        Raises:
            ConfigError: see :func:`check_test_cfg`.
        """
        check_test_cfg(model.get('test_cfg') or {})

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits (B, K, H, W) of images of one size (B, 3, H, W)."""
        if self._mode() == 'slide':
            maps = self._maps(list(inputs), self._window_map)
            return torch.stack([self._join(pieces, self._refinement(inputs[i])) for i, pieces in maps])
        return self._whole(inputs)

    def _mode(self) -> str:
        check_test_cfg(self.test_cfg)
        return self.test_cfg.get('mode', 'whole')

    def _keep_logits(self) -> bool:
        return self.test_cfg.get('keep_logits', True) or self.out_channels == 1

    def _whole(self, images: Tensor) -> Tensor:
        return self.encode_decode(images, [dict(img_shape=images.shape[2:])] * len(images))

    def _window_map(self, crops: Tensor) -> Tensor:
        """Maps (B, K, h, w) of windows (B, 3, H, W), as they come from the head."""
        return self._forward(crops)

    def _refinement(self, image: Tensor) -> Callable[[Tensor], Tensor] | None:
        """What is done to full-size maps (n, H, W) of an image (3, H, W), class by class; nothing here."""
        return None

    def _maps(self, images: list[Tensor], forward: Callable[[Tensor], Tensor]) -> Iterator[tuple[int, list[Piece]]]:
        """Yield the index and the pieces of each image (3, H, W), in order; windows of all images share the batches.

        Args:
            images: Those of one size follow each other.
            forward: Maps windows (B, 3, H, W) to (B, K, h, w).
        """
        windows = [(i, box) for i, image in enumerate(images) for box in self._windows(*image.shape[1:])]
        last = {i: n for n, (i, _) in enumerate(windows)}
        limit = self.test_cfg.get('window_batch_size', 8)
        pieces: dict[int, list[Piece]] = defaultdict(list)
        pos = 0
        while pos < len(windows):
            size = _box_size(windows[pos][1])
            batch = [windows[pos]]
            while len(batch) < limit and pos + len(batch) < len(windows):
                following = windows[pos + len(batch)]
                if _box_size(following[1]) != size:
                    break
                batch.append(following)
            maps = self._forward_padded(
                forward, torch.stack([images[i][:, y1:y2, x1:x2] for i, (y1, y2, x1, x2) in batch])
            )
            for offset, (i, box) in enumerate(batch):
                pieces[i].append((box, maps[offset]))
                if last[i] == pos + offset:
                    yield i, pieces.pop(i)
            pos += len(batch)

    def _forward_padded(self, forward: Callable[[Tensor], Tensor], crops: Tensor) -> Tensor:
        """Maps of windows (B, 3, H, W), which are padded first if ``window_multiple`` says so."""
        size, multiple = crops.shape[2:], self.test_cfg.get('window_multiple', 1)
        more_y, more_x = (-side % multiple for side in size)
        if not more_y and not more_x:
            return forward(crops)
        top, left = more_y // 2, more_x // 2
        crops = F.pad(crops, (left, more_x - left, top, more_y - top))
        maps = self.decode_head.predict_by_feat(forward(crops), [dict(img_shape=crops.shape[2:])])
        return maps[:, :, top : top + size[0], left : left + size[1]]

    def _join(
        self,
        pieces: list[Piece],
        refine: Callable[[Tensor], Tensor] | None = None,
        classes: slice = slice(None),
    ) -> Tensor:
        """Bring the maps of an image's windows to full size: (n, H, W) of the n ``classes``."""
        height, width = pieces[-1][0][1], pieces[-1][0][3]
        if len(pieces) == 1:
            joined = self._upsample(pieces[0][1][classes], (height, width))
        else:
            joined = counts = None
            for (y1, y2, x1, x2), small in pieces:  # one by one: full-size maps are the largest tensors of a test
                maps = self._upsample(small[classes], (y2 - y1, x2 - x1))
                if joined is None:
                    joined, counts = (maps.new_zeros((n, height, width)) for n in (len(maps), 1))
                joined[:, y1:y2, x1:x2] += maps
                counts[:, y1:y2, x1:x2] += 1
            joined = joined.div_(counts)
        return joined if refine is None else refine(joined)

    def _upsample(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        return self.decode_head.predict_by_feat(maps[None], [dict(img_shape=torch.Size(size))])[0]

    def _label_map(self, pieces: list[Piece], meta: dict, refine: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Labels (H, W), int64, in original size, equal to the argmax of all maps at full size.

        Refinement needs whole planes, but treats each class by itself, as interpolation and averaging do. So there a
        running maximum over groups of classes takes the place of strips.
        """
        if refine is None:
            return StripMaps(pieces, meta, self.align_corners).argmax()
        best = labels = None
        for start in range(0, len(pieces[0][1]), _CLASSES_AT_ONCE):
            maps = self._join(pieces, refine, slice(start, start + _CLASSES_AT_ONCE))
            maps = self._original_size(maps, meta)
            value, index = maps.max(dim=0)
            if best is None:
                best, labels = value, index
                continue
            better = value > best
            best = torch.where(better, value, best)
            labels = torch.where(better, index.add_(start), labels)
        return labels

    def _original_size(self, maps: Tensor, meta: dict) -> Tensor:
        """Maps (n, H, W) without padding, not flipped and in original size, as ``postprocess_result`` does it."""
        left, right, top, bottom = meta.get('img_padding_size', meta.get('padding_size', (0, 0, 0, 0)))
        maps = maps[:, top : maps.shape[1] - bottom, left : maps.shape[2] - right]
        if meta.get('flip'):
            maps = maps.flip(2 if meta['flip_direction'] == 'horizontal' else 1)
        size = tuple(meta.get('ori_shape', maps.shape[1:])[:2])
        if size == tuple(maps.shape[1:]):
            return maps
        return F.interpolate(maps[None], size, mode='bilinear', align_corners=self.align_corners)[0]

    def _windows(self, height: int, width: int) -> list[Box]:
        """Boxes (y1, y2, x1, x2) that cover an image; the last one ends in its lower right corner."""
        if self._mode() == 'whole':
            return [(0, height, 0, width)]
        (h_crop, w_crop), (h_stride, w_stride) = self.test_cfg['crop_size'], self.test_cfg['stride']

        def starts(length: int, crop: int, stride: int) -> list[int]:
            number = max(length - crop + stride - 1, 0) // stride + 1
            return [max(min(i * stride + crop, length) - crop, 0) for i in range(number)]

        return [
            (y, min(y + h_crop, height), x, min(x + w_crop, width))
            for y in starts(height, h_crop, h_stride)
            for x in starts(width, w_crop, w_stride)
        ]


def own_sizes(inputs: Tensor, data_samples: list) -> tuple[list[int], list[Tensor]]:
    """The images of a padded batch without their padding, those of one size behind each other.

    Args:
        inputs: (B, 3, H, W); each image fills the top left corner.
        data_samples: B samples, whose metainfo tells the sizes.

    Returns:
        The index of each image in the batch, and the images (3, h, w).
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, sample in enumerate(data_samples):
        groups[_own_size(sample.metainfo, inputs)].append(i)
    order = [i for ids in groups.values() for i in ids]
    images = [inputs[i, :, :height, :width] for (height, width), ids in groups.items() for i in ids]
    return order, images


def _box_size(box: Box) -> tuple[int, int]:
    y1, y2, x1, x2 = box
    return y2 - y1, x2 - x1


def _own_size(meta: dict, inputs: Tensor) -> tuple[int, int]:
    """Size of an image inside the padded batch; padding by the preprocessor's test_cfg counts as image."""
    if 'img_padding_size' in meta or 'padding_size' in meta or 'img_shape' not in meta:
        return tuple(inputs.shape[2:])
    return tuple(meta['img_shape'][:2])


@MODELS.register_module()
class CLIPEncoderDecoder(BatchedInference, EncoderDecoder):
    """mmseg's EncoderDecoder with :class:`BatchedInference`: the CLIP baselines without text."""
