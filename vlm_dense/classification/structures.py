"""Image-level labels and predictions."""

from __future__ import annotations

import torch
from mmengine.structures import BaseDataElement


class ClsDataSample(BaseDataElement):
    """Label and prediction of one image.

    Fields:
        gt_label: int64, scalar: the class.
        gt_labels: int64 (K,), instead of it where an image may show several classes: 1 shown, 0 not, -1 unknown.
        pred_scores: float32 (K,): the logits.
        pred_label: int64, scalar: the class with the greatest logit.

    Examples:
        >>> ClsDataSample().set_label(2).gt_label
        tensor(2)
    """

    def set_label(self, label: int) -> ClsDataSample:
        """Set ``gt_label`` and return the sample."""
        self.gt_label = torch.tensor(int(label))
        return self
