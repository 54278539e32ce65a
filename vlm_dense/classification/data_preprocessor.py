"""Batches of images, of views of images, of features, or of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from mmengine.model import ImgDataPreprocessor

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.registry import MODELS


@MODELS.register_module()
class ClsDataPreprocessor(ImgDataPreprocessor):
    """mmengine's normalisation and batching, also of several views an image and of features or texts in
    place of images.

    ============================================== =======================================
    ``inputs`` of a sample, from the data set      ``inputs`` of the model
    ============================================== =======================================
    image (3, H, W)                                (B, 3, H, W), normalised
    views (N, 3, H, W)                             (B, N, 3, H, W), normalised
    ``dict(global_=(D,), ...)``, float             :class:`ImageFeatures` with (B, D), ...
    token ids (T,), int64                          (B, T)
    ============================================== =======================================

    Args:
        **kwargs: ``mean``, ``std``, ``bgr_to_rgb`` and the others of ``ImgDataPreprocessor``.
    """

    def forward(self, data: dict, training: bool = False) -> dict:
        """Batch of what ``pseudo_collate`` gives."""
        inputs = data['inputs']
        if isinstance(inputs, Mapping):
            data = self.cast_data(data)
            features = {name: torch.stack(list(rows)) for name, rows in data['inputs'].items()}
            return dict(dict(data_samples=None), **dict(data, inputs=ImageFeatures(**features)))
        if inputs[0].dim() == 1:
            data = self.cast_data(data)
            return dict(dict(data_samples=None), **dict(data, inputs=torch.stack(list(data['inputs']))))
        if inputs[0].dim() == 4:
            views = [view for image in inputs for view in image]
            data = super().forward(dict(data, inputs=_together(views)), training)
            data['inputs'] = data['inputs'].unflatten(0, (len(inputs), -1))
            return data
        return super().forward(dict(data, inputs=_together(inputs)), training)


def _together(images: Sequence[torch.Tensor]) -> torch.Tensor | Sequence[torch.Tensor]:
    """(B, 3, H, W) of images of one size, which are then moved and normalised at once; others as they are."""
    if len(images[0]) == 3 and all(image.shape == images[0].shape for image in images):
        return images if isinstance(images, torch.Tensor) else torch.stack(list(images))
    return images
