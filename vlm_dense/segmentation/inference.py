"""Testing of segmentors: windows in batches, images of different size in one batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.models.segmentors.encoder_decoder import EncoderDecoder
from mmseg.structures import SegDataSample
from torch import Tensor

from vlm_dense.engine.configs.values import check_windows
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS, unknown_name
from vlm_dense.segmentation.postprocess import Describe, PostProcess, outcome_of
from vlm_dense.segmentation.steps import ClassMaps
from vlm_dense.segmentation.strips import use_strips
from vlm_dense.segmentation.window_maps import Box, StripMaps, WindowMaps


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


_TEST_KEYS = (
    'mode',
    'crop_size',
    'stride',
    'window_batch_size',
    'window_multiple',
    'keep_logits',
    'resize',
    'overview',
    'window_softmax',
)


def check_test_cfg(test_cfg: dict) -> None:
    """Check whether the ``test_cfg`` of :class:`BatchedInference` can work.

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
    size = test_cfg.get('resize')
    if size is not None and (
        mode == 'whole' or len(size) != 2 or not all(isinstance(side, int) and side > 0 for side in size)
    ):
        raise ConfigError(
            f"test_cfg.resize is a (height, width) that images have before windows are cut, for mode='slide'; found "
            f'{size!r} in mode {mode!r}.'
        )
    if test_cfg.get('overview') and mode == 'whole':
        raise ConfigError("test_cfg.overview is for mode='slide'; in mode 'whole' there is nothing else.")
    if mode == 'slide':
        check_windows(test_cfg)


class BatchedInference:
    """Mixin of mmseg segmentors with a test loop that does not depend on how images are batched.

    Call graph::

        predict --> for each image: window_maps --> window_map of its windows, several at a time --> WindowMaps
                --> postprocess.scores or .labels: merge, steps, original size --> seg_logits, pred_sem_seg

    ``test_cfg`` keys: ``mode`` (``'whole'`` or ``'slide'``), ``crop_size`` and ``stride`` (h, w) for slide,
    ``window_batch_size``, the number of windows that go through the network at once (default 8), and ``keep_logits``
    (default true). Windows are placed as in mmseg: a regular grid, the last row and column shifted back inside the
    image; maps are averaged where windows overlap. With ``window_multiple`` windows of a size that is no multiple of it
    are padded evenly with zeros, and their maps are cropped. With ``resize`` (h, w) windows are cut from the image
    resized to that, and with ``overview`` the image is resized to ``crop_size`` and segmented as a whole, too: the
    result is the mean of that map and of those of the windows. With ``keep_logits=False`` samples get ``pred_sem_seg``
    only: the same label map, but a few rows at a time are brought to full size (a few classes, where maps are refined
    on the pixels), so that memory does not grow with the number of classes.

    Attributes:
        by_windows: Whether labels follow from :meth:`window_map` of each window and ``postprocess``.
        postprocess: The steps between the maps of windows and labels; none here.
        activation: What is done to the map of a window once it is at the size of the window, in mode ``'slide'``; a
            function of it and the dimension of its channels. ``test_cfg.window_softmax`` is a softmax, without any
            temperature.

    The decode heads take their losses strip by strip as well, see
    :func:`~vlm_dense.segmentation.strips.use_strips`.
    """

    by_windows = True
    postprocess = PostProcess()
    activation: Callable[[Tensor, int], Tensor] | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        use_strips(self)

    # --- what a model says ----------------------------------------------------------------------------------------

    def window_map(self, crops: Tensor) -> Tensor:
        """Maps (B, n, h, w) of windows (B, 3, H, W), as they come from the head."""
        return self._forward(crops)

    def class_maps(self, values: Tensor) -> ClassMaps:
        """Kind of the values (B, n, h, w) of :meth:`window_map`: logits or probabilities, of classes or their names.

        Here logits of classes.
        """
        return ClassMaps(values)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities of the classes (K, H, W), which sum to one unless ``window_map`` gives independent ones.

        Args:
            scores: ``seg_logits`` of a sample, (K, H, W); of one class its probability, as in mmseg.
        """
        if len(scores) == 1:
            return torch.cat([1 - scores, scores])
        return outcome_of(self.postprocess.steps, self.class_maps(scores[None])).probabilities[0]

    # --- from images to labels ------------------------------------------------------------------------------------

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """Segment a batch.

        Args:
            inputs: (B, 3, H, W). An image smaller than (H, W) fills the top left corner; its own size is the
                metainfo's ``img_shape`` unless the data preprocessor padded it on purpose.
            data_samples: B samples with metainfo, or ``None``.

        Returns:
            B samples with ``seg_logits``, the scores of the classes, and ``pred_sem_seg`` in original size. ``kind``
            and ``scale`` of ``seg_logits`` say what the scores are, see :class:`ClassMaps`.
        """
        samples = [SegDataSample() for _ in inputs] if data_samples is None else data_samples
        order, images = own_sizes(inputs, samples)
        for n, maps in self.window_maps(images, metas=[samples[i].metainfo for i in order]):
            self.decide(samples[order[n]], maps, images[n])
        return samples

    def decide(self, sample: SegDataSample, maps: WindowMaps, image: Tensor) -> None:
        """Give a sample its labels, and its scores if they are kept, from the maps of its image (3, h, w)."""
        todo = maps, image, sample.metainfo, self.class_maps
        if self.test_cfg.get('keep_logits', True) or self.out_channels == 1:
            found = self.postprocess.scores(*todo)
            scores, labels = found.values[0], found.decided[0]
            if self.out_channels == 1:
                scores = found.probabilities[0]
                labels = (scores[0] > self.decode_head.threshold).to(scores)
            kind = dict(kind=found.kind, scale=found.scale)
            sample.set_data(dict(seg_logits=PixelData(data=scores, metainfo=kind)))
        else:
            labels = self.postprocess.labels(*todo)
        sample.set_data(dict(pred_sem_seg=PixelData(data=labels[None])))

    def strip_maps(self, inputs: Tensor, data_samples: list) -> list[tuple[StripMaps, Describe]]:
        """Maps of each image in original size, a few rows at a time, and what they are; arguments as of
        :meth:`predict`.

        Raises:
            ConfigError: there are steps behind the change to the original size.
        """
        if not self.postprocess.at_image_size:
            raise ConfigError(
                f'{type(self).__name__}: steps on maps of the original size cannot be averaged over augmented images. '
                'Leave out the test-time augmentation or these steps of postprocess.'
            )
        order, images = own_sizes(inputs, data_samples)
        found = {}
        for n, maps in self.window_maps(images):
            meta = data_samples[order[n]].metainfo
            found[order[n]] = self.postprocess.strips(maps, images[n], meta, self.class_maps)
        return [found[i] for i in range(len(data_samples))]

    def inference(self, inputs: Tensor, batch_img_metas: list[dict]) -> Tensor:
        """Maps (B, K, H, W) of images of one size (B, 3, H, W), at that size."""
        every = self.window_maps(list(inputs))
        return torch.cat([self.postprocess.merged(x, inputs[i], {}, self.class_maps).values for i, x in every])

    def window_maps(
        self,
        images: list[Tensor],
        forward: Callable[[Tensor], Tensor] | None = None,
        metas: Sequence[dict] | None = None,
    ) -> Iterator[tuple[int, WindowMaps]]:
        """Yield the index and the windows' maps of each image (3, H, W), in order; images share the batches.

        Args:
            images: Those of one size follow each other.
            forward: Maps windows (B, 3, H, W) to (B, n, h, w); default: :meth:`window_map` and the steps on windows.
            metas: Metainfo of each image, for models that look at more than its pixels; not read here.
        """
        forward, whole = forward or self._window_map, self._mode() == 'whole'
        size, overview = self.test_cfg.get('resize'), self.test_cfg.get('overview', False)
        crop_size = None if whole else tuple(self.test_cfg['crop_size'])
        windows: list[tuple[int, Box | None]] = []  # None: the whole image at the size of a window
        for i, image in enumerate(images):
            windows += [(i, None)] * overview + [(i, box) for box in self._windows(*(size or image.shape[1:]))]
        last = {i: n for n, (i, _) in enumerate(windows)}
        limit = self.test_cfg.get('window_batch_size', 8)
        activation = torch.softmax if self.test_cfg.get('window_softmax') else self.activation
        activation = None if whole else activation
        found: dict[int, WindowMaps] = defaultdict(lambda: WindowMaps(self.align_corners, whole, activation))
        resized: tuple[int | None, Tensor | None] = None, None

        def extent(window: tuple[int, Box | None]) -> tuple[int, int]:
            return crop_size if window[1] is None else _box_size(window[1])

        def crop(i: int, box: Box | None) -> Tensor:
            nonlocal resized
            if box is None:
                return _resized(images[i], crop_size)
            if size is not None and resized[0] != i:
                resized = i, _resized(images[i], tuple(size))
            y1, y2, x1, x2 = box
            return (images[i] if size is None else resized[1])[:, y1:y2, x1:x2]

        pos = 0
        while pos < len(windows):
            batch = [windows[pos]]
            while len(batch) < limit and pos + len(batch) < len(windows):
                following = windows[pos + len(batch)]
                if extent(following) != extent(batch[0]):
                    break
                batch.append(following)
            maps = self._forward_padded(forward, torch.stack([crop(*window) for window in batch]))
            for offset, (i, box) in enumerate(batch):
                if box is None:
                    found[i].add_overview(crop_size, maps[offset])
                else:
                    found[i].add(box, maps[offset])
                if last[i] == pos + offset:
                    yield i, found.pop(i)
            pos += len(batch)

    def _window_map(self, crops: Tensor) -> Tensor:
        return self.postprocess.of_window(self.class_maps(self.window_map(crops))).values

    def _forward_padded(self, forward: Callable[[Tensor], Tensor], crops: Tensor) -> Tensor:
        """Maps of windows (B, 3, H, W), which are padded first if ``window_multiple`` says so."""
        size, multiple = crops.shape[2:], self.test_cfg.get('window_multiple', 1)
        more_y, more_x = (-side % multiple for side in size)
        if not more_y and not more_x:
            return forward(crops)
        top, left = more_y // 2, more_x // 2
        crops = F.pad(crops, (left, more_x - left, top, more_y - top))
        maps = F.interpolate(forward(crops), crops.shape[2:], mode='bilinear', align_corners=self.align_corners)
        return maps[:, :, top : top + size[0], left : left + size[1]]

    def _mode(self) -> str:
        check_test_cfg(self.test_cfg)
        return self.test_cfg.get('mode', 'whole')

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
        data_samples: B samples, with the sizes in their metainfo.

    Returns:
        The index of each image in the batch, and the images (3, h, w).
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for i, sample in enumerate(data_samples):
        groups[_own_size(sample.metainfo, inputs)].append(i)
    order = [i for ids in groups.values() for i in ids]
    images = [inputs[i, :, :height, :width] for (height, width), ids in groups.items() for i in ids]
    return order, images


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """An image (3, h, w) at another size, whatever its aspect."""
    return F.interpolate(image[None], size, mode='bilinear', align_corners=False)[0]


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
