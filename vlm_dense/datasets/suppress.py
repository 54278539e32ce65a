"""Taking labels away: for training without annotation, and for zero-shot training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform

from vlm_dense.errors import ConfigError
from vlm_dense.registry import TRANSFORMS

UNLABELED = -1
"""Label of pixels that :class:`vlm_dense.segmentation.MaskCLIPPlus` labels itself."""


@TRANSFORMS.register_module()
class SuppressLabels(BaseTransform):
    """Make pixels unlabelled (-1). Place it behind ``LoadAnnotations`` and ``CheckSeg``, or behind ``DrawScene``.

    Args:
        classes: Labels to suppress, as they are after ``reduce_zero_label``. Default: all of them, and the map itself
            is taken out, so that nothing of it reaches the model.

    Raises:
        ConfigError: an empty list, or a label that no class can have.
    """

    def __init__(self, classes: Sequence[int] | None = None):
        if classes is not None and (not classes or not all(0 <= c < 255 for c in classes)):
            raise ConfigError(f'SuppressLabels: classes must be labels from 0 to 254, found {list(classes)}.')
        self.classes = None if classes is None else sorted(classes)

    def transform(self, results: dict) -> dict:
        """Turn ``gt_seg_map`` into int16 (H, W) with -1, or take it out."""
        if self.classes is None:
            results.pop('gt_seg_map', None)
            results['seg_fields'] = [f for f in results.get('seg_fields', []) if f != 'gt_seg_map']
        else:
            labels = results['gt_seg_map'].astype(np.int16)  # what cv2 resizes and rotates
            labels[np.isin(labels, self.classes)] = UNLABELED
            results['gt_seg_map'] = labels
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(classes={self.classes})'
