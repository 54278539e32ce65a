"""A model as a function of batches of images, for programs and for engines that run it on many machines."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from torch import Tensor

from vlm_dense.clip.digest import value_digest, weights_digest
from vlm_dense.clip.image_tower import ImageTower
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.inference.bulk.outputs import FORMATS, encoded
from vlm_dense.inference.class_inferencer import ClassInferencer, classifier_config
from vlm_dense.inference.common import check_batch_size
from vlm_dense.inference.images import ImageBytes, load_image
from vlm_dense.inference.maskclip_models import maskclip_config, method_config
from vlm_dense.inference.seg_inferencer import SegInferencer
from vlm_dense.limits import MAX_PIXELS
from vlm_dense.methods.maskclip.head import ClassNames
from vlm_dense.methods.maskclip.segmentor import MaskCLIP
from vlm_dense.segmentation.inference import MixedSizeSegDataPreProcessor
from vlm_dense.zoo import MASKCLIP, METHODS, TOWERS

IGNORE = 255
KINDS = ('dense', 'global')
"""Features: a map of each image, or one vector."""


@dataclass
class Prepared:
    """A batch on its way: what was decoded, and why the rest was not."""

    keys: list[str]
    data: list[dict | None]
    errors: list[str]


class Worker:
    """Labels or features of batches of images; one in each process.

    ``__call__`` takes and returns dicts of columns, as Ray Data, Spark and Dask have them, and does three things that
    a run overlaps: :meth:`prepare` (decoding, resizing: in threads), :meth:`compute` (the model: images of one size
    share a batch, and so do their windows) and :meth:`encode` (files: in threads).

    Args:
        model: As of :class:`~vlm_dense.inference.SegInferencer`. Default: the bundled tiny model.
        weights: Checkpoint of a model that was trained.
        task: ``'label'`` or ``'features'``.
        classes: Names in label order; for labels.
        thresh: Probability below which a pixel is ignored (255); for labels.
        kind: ``'dense'``, the map that the class embeddings are compared with, (h, w, D), or ``'global'``, the
            embedding of the image, (D,); for features, unit vectors of float16.
        method: Of :data:`~vlm_dense.zoo.METHODS`, instead of ``model``, on the CLIP of ``arch`` and ``pretrained``.
        arch, pretrained: A CLIP of open_clip, instead of ``model``.
        device: Default: a GPU if there is one.
        batch_size: Images at a time in the model.
        threads: For decoding and encoding.
        max_pixels: Height x width above which an image is refused; ``None``: no limit.

    Attributes:
        class_names: Names in label order; None for features.
        digest: Of all that decides on the results: config, weights, names and options.

    Raises:
        ConfigError: options that do not fit, and all that :class:`~vlm_dense.inference.SegInferencer` raises.

    Examples:
        >>> from pathlib import Path
        >>> worker = Worker(classes=['circle', 'star'])
        >>> image = Path('docs/images/shapes.png').read_bytes()
        >>> found = worker(dict(key=['a', 'b'], image=[image, b'no image']))
        >>> found['data'][0][:4], found['error'][1] != ''
        (b'\\x89PNG', True)
    """

    def __init__(
        self,
        model: str | os.PathLike | dict | Config | None = None,
        weights: str | None = None,
        task: str = 'label',
        classes: ClassNames | None = None,
        thresh: float = 0.0,
        kind: str = 'dense',
        method: str | None = None,
        arch: str | None = None,
        pretrained: str | None = None,
        device: str | None = None,
        batch_size: int = 8,
        threads: int = 2,
        max_pixels: int | None = MAX_PIXELS,
    ):
        check_batch_size(batch_size)
        if task not in FORMATS or kind not in KINDS:
            raise ConfigError(f"Expected 'label' or 'features', 'dense' or 'global', found {task!r} and {kind!r}.")
        if not 0 <= thresh < 1:
            raise ConfigError(f'thresh is a probability, from 0 up to but without 1, found {thresh}.')
        self.task, self.kind, self.thresh, self.batch_size = task, kind, thresh, batch_size
        self.extension = 'png' if task == 'label' else 'npy'
        self.class_names: list[str] | None = None
        if task == 'features' and kind == 'global' and weights is None:
            chosen = classifier_of(model, method, arch, pretrained)
            self._inferencer = ClassInferencer(chosen, None, device, None, False, max_pixels)
            pipeline, self._features = self._inferencer._prepare, self._global
        else:
            chosen = segmentor_of(model, method, arch, pretrained)
            self._inferencer = SegInferencer(chosen, weights, device, None, False, max_pixels)
            pipeline, self._features = self._inferencer.pipeline, self._global if kind == 'global' else self._dense
        self._pipeline: Callable[[dict], dict] = pipeline
        self._model = self._inferencer.model
        if task == 'label':
            self._view = self._inferencer.view(classes, thresh > 0)
            self._model, self.class_names = self._view.model, self._view.class_names
            if len(self.class_names) > IGNORE:
                raise ConfigError(
                    f'{len(self.class_names)} classes do not fit into 8-bit masks, which have room for {IGNORE}.'
                )
        self._mixed = task == 'label' and isinstance(self._model.data_preprocessor, MixedSizeSegDataPreProcessor)
        self._threads = ThreadPoolExecutor(threads)
        cfg = self._inferencer.cfg
        parts = (cfg.model.to_dict(), cfg.get('test_pipeline'), self.class_names, task, thresh, kind, batch_size)
        self.digest = value_digest([parts, weights_digest(self._model)])

    def __call__(self, batch: Mapping[str, Sequence]) -> dict[str, list]:
        """Results of a batch.

        Args:
            batch: Columns ``key``, a name of each image, and ``image``, its path or bytes; lists or arrays.

        Returns:
            Columns ``key``; ``data``, the bytes of a PNG (labels, 8 bits) or ``.npy`` file (features), empty for an
            image that cannot be used; ``error``, why, else empty; and of labels ``counts``, int64 (K + 1,), pixels of
            each class and of those ignored.
        """
        return self.encode(self.compute(self.prepare(batch)))

    # --- images in ------------------------------------------------------------------------------------------------

    def prepare(self, batch: Mapping[str, Sequence]) -> Prepared:
        """Decode and resize the images of a batch, in threads."""
        found = list(self._threads.map(self._prepare, batch['image']))
        return Prepared([str(key) for key in batch['key']], [one for one, _ in found], [why for _, why in found])

    def _prepare(self, source) -> tuple[dict | None, str]:
        try:
            source = ImageBytes(source) if isinstance(source, bytes) and not isinstance(source, ImageBytes) else source
            if source is None:
                raise DataError('There is no path and no bytes of an image.')
            image = load_image(source, self._inferencer.max_pixels)
            data = self._pipeline(dict(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2]))
            return data, ''
        except Exception as error:  # files can be broken in any way, and one must not stop the others
            return None, _reason(error)

    # --- the model ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def compute(self, batch: Prepared) -> tuple[Prepared, list[np.ndarray | None]]:
        """Labels uint8 (H, W), or features float16, of a prepared batch; None where there are none."""
        found: list[np.ndarray | None] = [None] * len(batch.keys)
        for chosen in self._groups(batch.data):
            self._compute(batch, chosen, found)
        return batch, found

    def _groups(self, data: Sequence[dict | None]) -> list[list[int]]:
        """Indices of images that go through the model at once, those of one size behind each other."""
        sizes = {i: tuple(one['inputs'].shape) for i, one in enumerate(data) if one is not None}
        order = sorted(sizes, key=lambda i: (sizes[i], i))
        groups: list[list[int]] = []
        for i in order:
            last = groups[-1] if groups else None
            if last is None or len(last) == self.batch_size or not (self._mixed or sizes[last[0]] == sizes[i]):
                groups.append([])
            groups[-1].append(i)
        return groups

    def _compute(self, batch: Prepared, chosen: list[int], found: list) -> None:
        try:
            data = pseudo_collate([batch.data[i] for i in chosen])
            results = self._label(data) if self.task == 'label' else self._features(data)
        except Exception as error:
            if len(chosen) == 1:
                batch.errors[chosen[0]] = _reason(error)
                return
            for i in chosen:
                self._compute(batch, [i], found)
            return
        for i, result in zip(chosen, results, strict=True):
            found[i] = result

    def _label(self, data: dict) -> list[np.ndarray]:
        scored = self.thresh > 0
        results = self._inferencer.postprocess(self._inferencer.forward(data, self._view), self._view, scored)
        masks = [one['predictions'].astype(np.uint8) for one in results]
        if scored:
            for mask, one in zip(masks, results, strict=True):
                mask[one['scores'].max(axis=0) < self.thresh] = IGNORE
        return masks

    def _inputs(self, data: dict) -> Tensor:
        return self._model.data_preprocessor(data, False)['inputs']

    def _dense(self, data: dict) -> list[np.ndarray]:
        inputs = self._inputs(data)
        if isinstance(self._model, MaskCLIP):
            maps = self._model.extract_feat(inputs).value
        else:
            maps = self._tower.encode(inputs, ('dense',)).dense
        return list(F.normalize(maps.float(), dim=1).permute(0, 2, 3, 1).half().cpu().contiguous().numpy())

    def _global(self, data: dict) -> list[np.ndarray]:
        found = self._tower.encode(self._inputs(data), ('global',)).global_
        return list(F.normalize(found.float(), dim=-1).half().cpu().numpy())

    @property
    def _tower(self) -> ImageTower:
        tower = getattr(self._model, 'backbone', None)
        if not isinstance(tower, ImageTower):
            raise ConfigError(
                f'{type(self._model).__name__} has no image tower of CLIP as its backbone, found '
                f'{type(tower).__name__}. Features are those of MaskCLIP, its successors and models on such a tower.'
            )
        return tower

    # --- files out ------------------------------------------------------------------------------------------------

    def encode(self, computed: tuple[Prepared, list[np.ndarray | None]]) -> dict[str, list]:
        """Results as files, in threads; see ``__call__``."""
        batch, found = computed
        data = list(self._threads.map(lambda one: b'' if one is None else encoded(one, self.extension), found))
        columns = dict(key=batch.keys, data=data, error=batch.errors)
        if self.class_names is not None:
            columns['counts'] = [_counts(one, len(self.class_names)) for one in found]
        return columns


@functools.cache
def process_worker(*args, **kwargs) -> Worker:
    """The worker of this process, built at the first call with these arguments.

    For engines that send functions and no models to their processes, as Spark and Dask. Arguments are those of
    :class:`Worker`, hashable: names are a tuple.
    """
    return Worker(*args, **kwargs)


def _counts(mask: np.ndarray | None, number: int) -> np.ndarray:
    if mask is None:
        return np.zeros(number + 1, np.int64)
    counts = np.bincount(mask.ravel(), minlength=IGNORE + 1)
    return np.append(counts[:number], counts[IGNORE])


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def segmentor_of(model, method: str | None, arch: str | None, pretrained: str | None):
    """What :class:`SegInferencer` builds for these arguments.

    Raises:
        ConfigError: arguments that do not go together.
    """
    _check_choice(model, method, arch, pretrained)
    if method is not None:
        return method_config(method, *((arch, pretrained) if arch else ()))
    return maskclip_config(arch, pretrained) if arch else model


def classifier_of(model, method: str | None, arch: str | None, pretrained: str | None):
    """What :class:`ClassInferencer` builds for the same tower."""
    _check_choice(model, method, arch, pretrained)
    if arch:
        return classifier_config(arch, pretrained)
    name = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
    known, _, tower = (name or '').rpartition('_')
    if name in MASKCLIP:
        return classifier_config(*MASKCLIP[name])
    if known in METHODS and tower in TOWERS:
        return classifier_config(*TOWERS[tower])
    return model


def _check_choice(model, method, arch, pretrained) -> None:
    if (model is not None) + (method is not None or arch is not None) > 1 or bool(arch) != bool(pretrained):
        raise ConfigError('Expected model, or arch and pretrained with or without method, found another choice.')
