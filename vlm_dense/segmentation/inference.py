"""Testing of segmentors: windows in batches, images of different size in one batch."""

from __future__ import annotations

from collections import defaultdict

import torch
from mmseg.models import EncoderDecoder, SegDataPreProcessor
from mmseg.structures import SegDataSample
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS


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


class BatchedInference:
    """Mixin of mmseg segmentors with a test loop that does not depend on how images are batched.

    ``test_cfg`` keys: ``mode`` (``'whole'`` or ``'slide'``), ``crop_size`` and ``stride`` (h, w) for slide, and
    ``window_batch_size``, the number of windows that go through the network at once (default 8). Windows are placed
    as in mmseg: a regular grid, the last row and column shifted back inside the image; logits are averaged where
    windows overlap. The class must define ``encode_decode(inputs, batch_img_metas)``.
    """

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
        metas = [sample.metainfo for sample in data_samples]
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for i, meta in enumerate(metas):
            groups[_own_size(meta, inputs)].append(i)
        if self._mode() == 'slide':
            images = [inputs[i, :, : size[0], : size[1]] for size, ids in groups.items() for i in ids]
            order = [i for ids in groups.values() for i in ids]
            for i, logits in zip(order, self._slide(images), strict=True):
                self.postprocess_result(logits[None], [data_samples[i]])
            return data_samples
        for (h, w), ids in groups.items():
            logits = self._whole(inputs[ids, :, :h, :w])
            self.postprocess_result(logits, [data_samples[i] for i in ids])
        return data_samples

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Logits (B, K, H, W) of images of one size (B, 3, H, W)."""
        if self._mode() == 'slide':
            return torch.stack(list(self._slide(list(inputs))))
        return self._whole(inputs)

    def _mode(self) -> str:
        mode = self.test_cfg.get('mode', 'whole')
        if mode not in ('whole', 'slide'):
            raise ConfigError(f"test_cfg.mode must be 'whole' or 'slide', found {mode!r}.")
        return mode

    def _whole(self, images: Tensor) -> Tensor:
        return self.encode_decode(images, [dict(img_shape=images.shape[2:])] * len(images))

    def _slide(self, images: list[Tensor]):
        """Yield the logits (K, H, W) of each image (3, H, W), in order; windows of all images share the batches."""
        windows = [(i, box) for i, image in enumerate(images) for box in self._windows(*image.shape[1:])]
        last = {i: n for n, (i, _) in enumerate(windows)}
        batch_size = self.test_cfg.get('window_batch_size', 8)
        sums: dict[int, Tensor] = {}
        counts: dict[int, Tensor] = {}
        pos = 0
        while pos < len(windows):
            size = _box_size(windows[pos][1])
            batch = [windows[pos]]
            while len(batch) < batch_size and pos + len(batch) < len(windows):
                following = windows[pos + len(batch)]
                if _box_size(following[1]) != size:
                    break
                batch.append(following)
            crops = torch.stack([images[i][:, y1:y2, x1:x2] for i, (y1, y2, x1, x2) in batch])
            small = self._forward(crops)
            for offset, (i, (y1, y2, x1, x2)) in enumerate(batch):
                # one window at a time: K channels at full size are the largest tensors of a test
                logits = self.decode_head.predict_by_feat(
                    small[offset : offset + 1], [dict(img_shape=crops.shape[2:])]
                )[0]
                if i not in sums:
                    height, width = images[i].shape[1:]
                    sums[i] = logits.new_zeros((len(logits), height, width))
                    counts[i] = logits.new_zeros((1, height, width))
                sums[i][:, y1:y2, x1:x2] += logits
                counts[i][:, y1:y2, x1:x2] += 1
                if last[i] == pos + offset:
                    yield sums.pop(i).div_(counts.pop(i))
            pos += len(batch)

    def _windows(self, height: int, width: int) -> list[tuple[int, int, int, int]]:
        """Boxes (y1, y2, x1, x2) that cover an image."""
        (h_crop, w_crop), (h_stride, w_stride) = self.test_cfg['crop_size'], self.test_cfg['stride']

        def starts(length: int, crop: int, stride: int) -> list[int]:
            number = max(length - crop + stride - 1, 0) // stride + 1
            return [max(min(i * stride + crop, length) - crop, 0) for i in range(number)]

        return [
            (y, min(y + h_crop, height), x, min(x + w_crop, width))
            for y in starts(height, h_crop, h_stride)
            for x in starts(width, w_crop, w_stride)
        ]


def _box_size(box: tuple[int, int, int, int]) -> tuple[int, int]:
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
