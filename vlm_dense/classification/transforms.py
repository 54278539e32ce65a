"""Last step of a classification pipeline."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform

from vlm_dense.classification.structures import ClsDataSample
from vlm_dense.registry import TRANSFORMS


@TRANSFORMS.register_module()
class PackClsInputs(BaseTransform):
    """Pack an image and its label for :class:`~vlm_dense.classification.CLIPClassifier`.

    Takes ``img``, uint8 (H, W, 3) or (H, W), and ``gt_label``, an int, if there is one. Gives ``inputs``, a tensor
    (3, H, W) or (1, H, W), and ``data_samples``, a :class:`ClsDataSample`.

    Args:
        meta_keys: What else is kept, as metainfo of the sample.
    """

    def __init__(self, meta_keys: Sequence[str] = ('img_path', 'img_shape', 'ori_shape')):
        self.meta_keys = tuple(meta_keys)

    def transform(self, results: dict) -> dict:
        """Pack."""
        image = results['img']
        image = image[None] if image.ndim == 2 else image.transpose(2, 0, 1)
        sample = ClsDataSample(metainfo={k: results[k] for k in self.meta_keys if k in results})
        if 'gt_label' in results:
            sample.set_label(results['gt_label'])
        return dict(inputs=torch.from_numpy(np.ascontiguousarray(image)), data_samples=sample)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(meta_keys={self.meta_keys})'
