"""Exported classifiers on images."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import init_default_scope
from torch import Tensor

from vlm_dense.datasets.checks import check_limit
from vlm_dense.errors import ConfigError
from vlm_dense.export.metadata import with_tuples
from vlm_dense.export.runtime import ExportedFile
from vlm_dense.inference.common import check_batch_size
from vlm_dense.inference.images import image_list, load_image
from vlm_dense.limits import MAX_PIXELS


class ExportedClassifier:
    """Names of classes for images, by an exported file.

    Args:
        path: ``*.onnx`` or ``*.pt2``, see :func:`vlm_dense.inference.export_file`.
        device: Where images are prepared and a .pt2 runs.
        max_pixels: Height x width above which an image is refused; ``None``: no limit.

    Attributes:
        class_names: Names in label order.

    Raises:
        ConfigError: a file of another task.
        CheckpointError: see :class:`vlm_dense.export.runtime.ExportedFile`.
    """

    def __init__(self, path: str | os.PathLike, device: str = 'cpu', max_pixels: int | None = MAX_PIXELS):
        init_default_scope('mmengine')
        self.file, self.max_pixels = ExportedFile(path), check_limit(max_pixels)
        found = self.file.metadata
        if found['task'] != 'classification':
            raise ConfigError(f'{path} is a file for {found["task"]}, expected one for classification.')
        self.class_names = list(found['classes'])
        self._prepare = Compose(with_tuples(found['pipeline']))
        self._batch = ROOT_MODELS.build(found['data_preprocessor']).to(device)

    @torch.no_grad()
    def logits(self, images: Sequence[np.ndarray]) -> Tensor:
        """Logits (B, K) of images, uint8 (H, W, 3) in BGR."""
        data = [self._prepare(dict(img=image, img_shape=image.shape[:2])) for image in images]
        return self.file(self._batch(pseudo_collate(data))['inputs'])[0].cpu()

    def __call__(self, inputs, batch_size: int = 1) -> list[dict]:
        """Classify images.

        Args:
            inputs: Images, what :func:`vlm_dense.inference.images.image_list` takes.
            batch_size: Images at a time.

        Returns:
            Of each image ``label``, ``name``, ``score`` (its probability) and ``scores`` (K,).

        Raises:
            ConfigError: a batch size that is no positive integer.
            DataError: a file that is no image, or a folder without images.
        """
        check_batch_size(batch_size)
        inputs, found = image_list(inputs), []
        for start in range(0, len(inputs), batch_size):
            images = [load_image(one, self.max_pixels) for one in inputs[start : start + batch_size]]
            for scores in self.logits(images).softmax(dim=1):
                label = int(scores.argmax())
                name, score = self.class_names[label], float(scores[label])
                found.append(dict(label=label, name=name, score=score, scores=scores.numpy()))
        return found
