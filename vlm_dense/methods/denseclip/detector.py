"""DenseCLIP for mmdet.

"DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting", CVPR 2022, section 3; its detectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
from mmdet.structures.bbox import get_box_tensor
from torch import Tensor

from vlm_dense.clip.preprocessing import colours_of_tag
from vlm_dense.contract.text_side import refuse_head
from vlm_dense.methods.denseclip.segmentor import PixelTextMatching, counted_head, joined_neck
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.strips import strip_loss
from vlm_dense.vocabulary.class_names import one_name_each

STRIDE = 4
"""Stride in pixels of the grid on which boxes supervise the score map."""


def box_targets(
    boxes: Tensor, labels: Tensor, num_classes: int, size: tuple[int, int], rows: slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Which classes have a box at each cell of the stride-4 grid.

    Corners are divided by the stride, cut to integers and clamped to the last cell, the lower right one exclusive, as
    in the official code. So a box narrower than a cell, or outside the image, has no cell.

    Args:
        boxes: (n, 4) x1 y1 x2 y2 in pixels of the batch.
        labels: (n,) int64.
        num_classes: K.
        size: (h, w) of the grid.
        rows: Rows of the grid that are wanted.

    Returns:
        Targets (K, h, w) of 0 and 1, and (1, h, w), 1 where any box lies; float32.
    """
    height, width = size
    start, stop, _ = rows.indices(height)
    limits = boxes.new_tensor([width - 1, height - 1] * 2)
    cells = (boxes / STRIDE).trunc().minimum(limits).clamp(min=0).long().tolist()
    target = boxes.new_zeros((num_classes, stop - start, width), dtype=torch.float32)
    for (x1, y1, x2, y2), label in zip(cells, labels.tolist(), strict=True):
        target[label, max(y1 - start, 0) : max(y2 - start, 0), x1:x2] = 1
    return target, target.amax(dim=0, keepdim=True)


class DenseCLIPDetection(PixelTextMatching):
    """Mixin that turns a detector of mmdet into DenseCLIP; goes in front of the detector's class.

    Call graph::

        loss / predict --> extract_feat --> guide: text_side.encode --> stages, g, z (backbone)
                          |       t' = t + gamma * context_decoder(t, [g; z])              (section 3.2, eq. 4)
                          |       s = <z/|z|, t'/|t'|>                                     (section 3.1, eq. 1)
                          +------ stages[score_concat_index] = [stage; s / tau] --> neck --> heads of mmdet
        s / tau against the boxes, during training                                         (section 3.3)

    Heads are mmdet's and keep their own class scores. In contrast to segmentation the map joins the stage divided
    by ``tau``.

    Args:
        backbone: ``vlm_dense.CLIPResNet`` with ``attnpool=True``, as published with ``attnpool_positions='crop'`` and
            ``input_resolution=1344``; or ``vlm_dense.PooledBackbone``.
        text_encoder, text_prompt, image_prompt, context_decoder, class_names, score_concat_index, tau, gamma: See
            :class:`vlm_dense.methods.denseclip.segmentor.DenseCLIP`.
        seg_loss: Supervise the score map by the boxes.
        neck: As in mmdet; its ``in_channels`` may be left out, as in segmentation.
        bbox_head, rpn_head, roi_head: As in mmdet; where ``num_classes`` is left out, it is the number of names.
        train_cfg, test_cfg, data_preprocessor, init_cfg: As in mmdet.
        head: Of a classifier; refused here.

    Raises:
        ClassNamesError: no names, or another number of names than a head has classes.
        ConfigError: a backbone without dense features in the space of the text encoder.
    """

    join_over_tau = True
    seg_loss_name = 'loss_seg'
    seg_loss = True
    _matched: list[tuple[Tensor, Tensor]] | None = None  # while the loss is computed

    def extract_feat(self, batch_inputs: Tensor) -> tuple[Tensor, ...]:
        """Maps for the heads, of images (B, 3, H, W)."""
        stages, score, text = self.guide(batch_inputs)
        if self._matched is not None:
            self._matched.append((score, text))
        return self.neck(stages) if self.with_neck else tuple(stages)

    def loss(self, batch_inputs: Tensor, batch_data_samples: list) -> dict:
        """Losses of the detector, ``loss_seg`` (two stages: ``loss_aux_seg``) and ``prompt.*`` (the prompt's own)."""
        self._matched = []
        try:
            losses = super().loss(batch_inputs, batch_data_samples)
            [(score, text)] = self._matched
        finally:
            self._matched = None
        if self.seg_loss:
            losses[self.seg_loss_name] = self.box_loss(score, batch_data_samples, batch_inputs.shape[2:])
        losses.update({f'prompt.{name}': value for name, value in self.text_prompt.losses(text).items()})
        return losses

    def box_loss(self, score: Tensor, data_samples: list, image_size: tuple[int, int]) -> Tensor:
        """Binary cross-entropy of the score map inside the boxes, averaged over their cells and all classes.

        Cells outside every box count nowhere; without any box the loss is 0.

        Args:
            score: Score map s (B, K, h, w).
            data_samples: B samples with ``gt_instances``.
            image_size: (H, W) of the padded batch.
        """
        size = image_size[0] // STRIDE, image_size[1] // STRIDE
        classes = score.shape[1]
        boxes = [(get_box_tensor(s.gt_instances.bboxes), s.gt_instances.labels) for s in data_samples]

        def of_strip(logits: Tensor, images: slice, rows: slice) -> tuple[Tensor, Tensor]:
            pairs = [box_targets(*one, classes, size, rows) for one in boxes[images]]
            target, mask = (torch.stack(maps).permute(0, 2, 3, 1) for maps in zip(*pairs, strict=True))
            loss = F.binary_cross_entropy_with_logits(logits, target, mask.expand_as(target), reduction='sum')
            logits.sigmoid_().sub_(target).mul_(mask)
            return loss, mask.sum()

        total, cells = strip_loss(score / self.tau, size, of_strip)
        return total / (classes * cells.clamp(min=1))


@MODELS.register_module()
class DenseCLIPSingleStage(DenseCLIPDetection, SingleStageDetector):
    """DenseCLIP with any single-stage head of mmdet in ``bbox_head``: RetinaNet, FCOS, ATSS, RTMDet.

    For arguments see :class:`DenseCLIPDetection` and mmdet's ``SingleStageDetector``.
    """

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        text_prompt: dict,
        bbox_head: dict,
        neck: dict | None = None,
        image_prompt: dict | None = None,
        context_decoder: dict | None = None,
        head: dict | None = None,
        class_names: str | Sequence[str] | None = None,
        score_concat_index: int = 3,
        tau: float = 0.07,
        gamma: float = 1e-4,
        seg_loss: bool = True,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        refuse_head(head, type(self).__name__)
        class_names = one_name_each(class_names)
        super().__init__(
            backbone=backbone,
            bbox_head=counted_head(bbox_head, len(class_names), 'bbox_head'),
            neck=joined_neck(neck, backbone, score_concat_index, len(class_names)),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=colours_of_tag(data_preprocessor, backbone),
            init_cfg=init_cfg,
        )
        self.build_matching(
            text_encoder, text_prompt, class_names, image_prompt, context_decoder, score_concat_index, tau, gamma
        )
        self.seg_loss = seg_loss


@MODELS.register_module()
class DenseCLIPTwoStage(DenseCLIPDetection, TwoStageDetector):
    """DenseCLIP with any two-stage heads of mmdet: Faster, Mask and Cascade R-CNN.

    For arguments see :class:`DenseCLIPDetection` and mmdet's ``TwoStageDetector``.
    """

    seg_loss_name = 'loss_aux_seg'

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        text_prompt: dict,
        rpn_head: dict,
        roi_head: dict,
        neck: dict | None = None,
        image_prompt: dict | None = None,
        context_decoder: dict | None = None,
        head: dict | None = None,
        class_names: str | Sequence[str] | None = None,
        score_concat_index: int = 3,
        tau: float = 0.07,
        gamma: float = 1e-4,
        seg_loss: bool = True,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        refuse_head(head, type(self).__name__)
        class_names = one_name_each(class_names)
        super().__init__(
            backbone=backbone,
            rpn_head=rpn_head,
            roi_head=counted_head(roi_head, len(class_names), 'roi_head'),
            neck=joined_neck(neck, backbone, score_concat_index, len(class_names)),
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=colours_of_tag(data_preprocessor, backbone),
            init_cfg=init_cfg,
        )
        self.build_matching(
            text_encoder, text_prompt, class_names, image_prompt, context_decoder, score_concat_index, tau, gamma
        )
        self.seg_loss = seg_loss
