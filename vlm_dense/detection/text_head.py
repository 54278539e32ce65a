"""Heads that classify regions by text: box head, its losses and coder, RoI head, and a head of one stage."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from mmcv.cnn import build_norm_layer
from mmdet.models.dense_heads import RetinaHead
from mmdet.models.losses import accuracy
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import ConvFCBBoxHead
from mmdet.models.task_modules.coders import DeltaXYWHBBoxCoder
from mmdet.models.utils import empty_instances
from mmdet.structures.bbox import bbox2roi, get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.contract.text_side import TextSide
from vlm_dense.detection.regions import BACKGROUNDS, fuse
from vlm_dense.errors import ConfigError, unknown_name
from vlm_dense.registry import MODELS, TASK_UTILS

EMBEDDINGS = ('linear', 'relu')


class NormedLinear(nn.Linear):
    """A linear layer with a norm behind it, ``bn``."""

    def __init__(self, in_features: int, out_features: int, norm_cfg: dict):
        super().__init__(in_features, out_features)
        kind = norm_cfg['type']
        self.bn = build_norm_layer(dict(norm_cfg, type='BN1d' if kind == 'BN' else kind), out_features)[1]

    def forward(self, input: Tensor) -> Tensor:
        """(N, out_features)."""
        return self.bn(super().forward(input))


@MODELS.register_module()
class TextBBoxHead(ConvFCBBoxHead):
    """mmdet's ``ConvFCBBoxHead`` with an embedding in CLIP's joint space instead of class logits.

    Its first output are embeddings (N, D), which :class:`TextRoIHead` compares with those of class names, so no weight
    belongs to a class. Boxes are class-agnostic.

    Args:
        embed_dim: D; the detector fills it in.
        embedding: ``'linear'``, a last layer without bias (F-VLM), or ``'relu'``, the output of the last class layer
            behind its ReLU, which must have D channels (F-ViT).
        temperature: Initial value of the learned temperature.
        logit_scale: Fixed factor of the cosines.
        divide: Divide the cosines by the learned temperature (F-VLM), or multiply them by it (F-ViT).
        conv_bias: The convolutions have a bias in front of their norm.
        fc_norm_cfg: BatchNorm behind the shared linear layers.
        *args, **kwargs: As in mmdet; ``loss_cls`` is :class:`RegionCrossEntropy` by default.

    Raises:
        ConfigError: an unknown ``embedding``, or ``'relu'`` with another width than D.
    """

    def __init__(
        self,
        embed_dim: int,
        *args: Any,
        embedding: str = 'linear',
        temperature: float = 1.0,
        logit_scale: float = 100.0,
        divide: bool = True,
        conv_bias: bool = False,
        fc_norm_cfg: dict | None = None,
        loss_cls: dict | None = None,
        **kwargs: Any,
    ):
        if embedding not in EMBEDDINGS:
            raise ConfigError(unknown_name(str(embedding), 'kinds of embedding of TextBBoxHead', EMBEDDINGS))
        self.conv_bias, self.fc_norm_cfg = conv_bias, fc_norm_cfg
        loss_cls = loss_cls or dict(type='vlm_dense.RegionCrossEntropy')
        super().__init__(*args, reg_class_agnostic=True, loss_cls=loss_cls, **kwargs)
        self.embedding, self.logit_scale, self.divide = embedding, logit_scale, divide
        if embedding == 'linear':
            self.fc_cls = nn.Linear(self.cls_last_dim, embed_dim, bias=False)
        elif self.cls_last_dim != embed_dim or not self.num_cls_fcs + self.num_shared_fcs:
            raise ConfigError(
                f"TextBBoxHead: with embedding='relu' the last linear layer in front of the classes must have the "
                f'{embed_dim} channels of the joint space, found {self.cls_last_dim}. Set fc_out_channels={embed_dim}, '
                "or embedding='linear'."
            )
        else:
            self.fc_cls = nn.Identity()
        heads = ['fc_cls'] * (embedding == 'linear') + ['fc_reg']
        stds = dict(fc_cls=0.01, fc_reg=0.001)
        self.init_cfg = [dict(type='Normal', std=stds[name], override=dict(name=name)) for name in heads]
        self.temperature = nn.Parameter(torch.full((1,), float(temperature)))
        self.register_buffer('trained', torch.ones(self.num_classes + 1, dtype=torch.bool), persistent=False)

    def _add_conv_fc_branch(self, num_branch_convs, num_branch_fcs, in_channels, is_shared=False) -> tuple:
        convs, fcs, width = super()._add_conv_fc_branch(num_branch_convs, num_branch_fcs, in_channels, is_shared)
        if self.conv_bias:
            for module in convs:
                module.conv.bias = nn.Parameter(torch.zeros(module.out_channels))
        if self.fc_norm_cfg and is_shared:
            fcs = nn.ModuleList(NormedLinear(fc.in_features, fc.out_features, self.fc_norm_cfg) for fc in fcs)
        return convs, fcs, width

    def init_weights(self) -> None:
        """As in mmdet; linear layers may have a norm behind them, which its initialisation does not know."""
        first = not self.is_init
        super().init_weights()
        for layer in (*self.shared_fcs, *self.cls_fcs, *self.reg_fcs) if first else ():
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def set_classes(self, trained: Sequence[bool]) -> None:
        """Take other classes.

        Args:
            trained: Whether each class has boxes in training; the loss does without the others.
        """
        self.num_classes = len(trained)
        self.trained = torch.tensor([*trained, True], device=self.temperature.device)

    def logits(self, cosines: Tensor) -> Tensor:
        """Logits of cosines, of any shape."""
        factor = self.temperature.float()
        return cosines * self.logit_scale / factor if self.divide else cosines * self.logit_scale * factor

    def loss(self, cls_score: Tensor, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """As in mmdet, of logits (N, R); rows that are not trained are left out of the softmax."""
        own = torch.cat([cls_score[:, : self.num_classes], cls_score[:, -1:]], dim=1)
        return super().loss(own.masked_fill(~self.trained, -torch.inf), *args, **kwargs)


@MODELS.register_module()
class RegionCrossEntropy(nn.Module):
    """Cross-entropy of regions, averaged over all of them, whatever they weigh.

    Args:
        background_weight: Of regions that are background.
        loss_weight: Of the whole.
    """

    custom_cls_channels = True
    custom_activation = True
    custom_accuracy = True

    def __init__(self, background_weight: float = 1.0, loss_weight: float = 1.0):
        super().__init__()
        self.background_weight, self.loss_weight = background_weight, loss_weight

    def forward(
        self,
        cls_score: Tensor,
        label: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """The loss of logits (N, K + 1) and labels (N,), of which K is the background."""
        own = F.cross_entropy(cls_score.float(), label, reduction='none')
        own = torch.where(label == cls_score.shape[1] - 1, self.background_weight * own, own)
        own = own if weight is None else own * weight
        if reduction_override == 'none':
            return self.loss_weight * own
        return self.loss_weight * own.sum() / (len(own) if avg_factor is None else avg_factor)

    def get_cls_channels(self, num_classes: int) -> int:
        """As mmdet asks it."""
        return num_classes + 1

    def get_activation(self, cls_score: Tensor) -> Tensor:
        """The same: what is predicted from are probabilities already."""
        return cls_score

    def get_accuracy(self, cls_score: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """As mmdet logs it."""
        return dict(acc=accuracy(cls_score, labels))


@MODELS.register_module()
class MeanSmoothL1Loss(nn.Module):
    """Smooth L1, averaged over all entries of the boxes that it gets; mmdet averages over all regions of the batch.

    Args:
        beta: Where the parabola ends.
        loss_weight: Of the whole.
    """

    def __init__(self, beta: float = 1.0, loss_weight: float = 1.0):
        super().__init__()
        self.beta, self.loss_weight = beta, loss_weight

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, **_: Any) -> Tensor:
        """The loss of boxes (n, 4); those with weight 0 count as 0."""
        loss = F.smooth_l1_loss(pred, target, beta=self.beta, reduction='none')
        return self.loss_weight * (loss if weight is None else loss * weight).mean()


@TASK_UTILS.register_module()
class InclusiveBoxCoder(DeltaXYWHBBoxCoder):
    """mmdet's ``DeltaXYWHBBoxCoder`` for boxes with a last pixel inside: a width is x2 - x1 + 1.

    Decoding is the inverse of encoding, unlike that of mmdet's ``LegacyDeltaXYWHBBoxCoder``, and clips to the last
    pixel, W - 1.
    """

    _further = (0.0, 0.0, 1.0, 1.0)

    def encode(self, bboxes, gt_bboxes) -> Tensor:
        """Deltas (N, 4)."""
        boxes, targets = get_box_tensor(bboxes), get_box_tensor(gt_bboxes)
        further = boxes.new_tensor(self._further)
        return super().encode(boxes + further, targets + further)

    def decode(self, bboxes, pred_bboxes: Tensor, max_shape=None, wh_ratio_clip: float = 16 / 1000) -> Tensor:
        """Boxes (N, 4)."""
        boxes = get_box_tensor(bboxes)
        further = boxes.new_tensor(self._further)
        found = get_box_tensor(super().decode(boxes + further, pred_bboxes, None, wh_ratio_clip)) - further
        if max_shape is None or not self.clip_border:
            return found
        height, width = max_shape[:2]
        return found.clamp(min=0).minimum(found.new_tensor([width, height, width, height]) - 1)


@dataclass
class RegionInputs:
    """What a detector gives to its RoI head beside the maps of the neck.

    Attributes:
        side: Compares embeddings with texts.
        tower: CLIP's image tower.
        features: Of the batch.
        text: Class embeddings of the rows, as the prompt gives them; the background is last, unless it is a vector.
        novel: (R,) bool, see :func:`~vlm_dense.detection.regions.fuse`.
        background: Vector (D,) of the background, if no phrase stands for it.
    """

    side: TextSide
    tower: ImageTower
    features: ImageFeatures
    text: Tensor
    novel: Tensor
    background: Tensor | None = None

    def cosines(self, embeddings: Tensor, images: Tensor) -> Tensor:
        """Cosines (N, R) of embeddings (N, D) and the rows of text; ``images`` (N,) are the indices of their images."""
        if self.side.text_prompt.image_conditioned:
            owned = [(images == index).nonzero()[:, 0] for index in range(len(self.text))]
            parts = [self._of_image(embeddings[own], text[None]) for own, text in zip(owned, self.text, strict=True)]
            found = torch.cat(parts)[torch.cat(owned).argsort()]
        else:
            found = self._of_image(embeddings, self.text)
        if self.background is None:
            return found
        nothing = F.normalize(embeddings.float(), dim=-1) @ F.normalize(self.background.float(), dim=0)
        return torch.cat([found, nothing[:, None]], dim=1)

    def _of_image(self, embeddings: Tensor, text: Tensor) -> Tensor:
        scores = self.side.scores(embeddings.T[None, :, :, None], text)
        return self.side.combine(scores)[0, :, :, 0].T


class SecondOpinion:
    """What heads have in common that ask CLIP itself about regions at test time.

    The detector sets :attr:`regions` before each call.
    """

    regions: RegionInputs | None = None

    def take_scorer(self, scorer: dict | None, alpha: float, beta: float, clip_scale: float) -> None:
        """Build the :class:`~vlm_dense.detection.regions.RegionScorer`, and check the weights of its classification.

        Raises:
            ConfigError: a weight that is not between 0 and 1.
        """
        for name, value in (('alpha', alpha), ('beta', beta)):
            if not 0 <= value <= 1:
                raise ConfigError(f'{type(self).__name__}: {name} must be from 0 to 1, found {value}.')
        self.scorer = None if scorer is None else MODELS.build(scorer)
        self.alpha, self.beta, self.clip_scale = alpha, beta, clip_scale

    def clip_logits(self, rois: Tensor) -> Tensor:
        """Logits (N, R) of regions by CLIP's own embeddings of them."""
        given = self.regions
        embeddings = self.scorer(given.tower, given.features, rois)
        return self.clip_scale * given.cosines(embeddings, rois[:, 0])


@MODELS.register_module()
class TextRoIHead(SecondOpinion, StandardRoIHead):
    """mmdet's ``StandardRoIHead`` for regions that are classified by text, and a second time by CLIP.

    Args:
        scorer: Config of the :class:`~vlm_dense.detection.regions.RegionScorer`; ``None``: the detector's
            classification alone.
        alpha, beta, background, renormalise: See :func:`~vlm_dense.detection.regions.fuse`.
        clip_scale: Factor of the cosines of CLIP's embeddings.
        **kwargs: As in mmdet, with :class:`TextBBoxHead` as ``bbox_head``.

    Raises:
        ConfigError: a weight that is not between 0 and 1, or an unknown ``background``.
    """

    def __init__(
        self,
        scorer: dict | None = None,
        alpha: float = 0.35,
        beta: float = 0.65,
        background: str = 'detector',
        renormalise: bool = False,
        clip_scale: float = 100.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.take_scorer(scorer, alpha, beta, clip_scale)
        if background not in BACKGROUNDS:
            raise ConfigError(unknown_name(str(background), 'rules for the background of TextRoIHead', BACKGROUNDS))
        self.background, self.renormalise = background, renormalise

    def _bbox_forward(self, x: tuple[Tensor, ...], rois: Tensor) -> dict[str, Tensor]:
        """As in mmdet; ``cls_score`` are logits (N, R), ``embeddings`` (N, D) what they come from."""
        found = super()._bbox_forward(x, rois)
        found['embeddings'] = found['cls_score']
        found['cls_score'] = self.bbox_head.logits(self.regions.cosines(found['embeddings'], rois[:, 0]))
        return found

    def scores(self, logits: Tensor, rois: Tensor) -> Tensor:
        """Scores (N, R) of regions with the logits (N, R) of the detector."""
        if self.scorer is None:
            return logits.softmax(dim=-1)
        novel, weights = self.regions.novel, (self.alpha, self.beta)
        return fuse(logits, self.clip_logits(rois), novel, *weights, self.background, self.renormalise)

    def predict_bbox(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        rpn_results_list: list[InstanceData],
        rcnn_test_cfg: dict,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """As in mmdet."""
        proposals = [result.bboxes for result in rpn_results_list]
        rois, counts = bbox2roi(proposals), [len(boxes) for boxes in proposals]
        head = self.bbox_head
        if not len(rois):
            return empty_instances(
                batch_img_metas,
                rois.device,
                task_type='bbox',
                box_type=head.predict_box_type,
                num_classes=head.num_classes,
                score_per_cls=rcnn_test_cfg is None,
            )
        found = self._bbox_forward(x, rois)
        results = head.predict_by_feat(
            rois.split(counts),
            self.scores(found['cls_score'], rois).split(counts),
            found['bbox_pred'].split(counts),
            batch_img_metas,
            rcnn_test_cfg=rcnn_test_cfg,
            rescale=rescale,
        )
        if rcnn_test_cfg is None:
            return results
        return [result[result.labels < head.num_classes] for result in results]  # padding is no class


@MODELS.register_module()
class TextRetinaHead(SecondOpinion, RetinaHead):
    """mmdet's ``RetinaHead`` with an embedding for each anchor, which is compared with class names.

    A class has a sigmoid of its own, so there is no background. At test time the boxes that the head finds are
    classified a second time by CLIP, among the classes and the phrase for the background, and the two probabilities of
    a box's class are multiplied with exponents, as in :func:`~vlm_dense.detection.regions.fuse`.

    Args:
        num_classes: K at the start; any other is possible later.
        embed_dim: D; the detector fills it in.
        scorer: Config of the :class:`~vlm_dense.detection.regions.RegionScorer`; ``None``: the head alone.
        alpha, beta: Weight of CLIP for trained and for novel classes.
        clip_scale: Factor of the cosines of CLIP's embeddings.
        temperature: Initial factor of the cosines of the head, which is learned.
        prior: Probability of any class that the head begins with.
        **kwargs: As in mmdet.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        embed_dim: int,
        scorer: dict | None = None,
        alpha: float = 0.1,
        beta: float = 0.8,
        clip_scale: float = 75.0,
        temperature: float = 20.0,
        prior: float = 0.01,
        **kwargs: Any,
    ):
        self.embed_dim = embed_dim
        super().__init__(num_classes, in_channels, **kwargs)
        if not self.use_sigmoid_cls:
            raise ConfigError(
                'TextRetinaHead gives each class a sigmoid of its own, found loss_cls with use_sigmoid=False. Set '
                'use_sigmoid=True.'
            )
        self.take_scorer(scorer, alpha, beta, clip_scale)
        self.temperature = nn.Parameter(torch.tensor([float(temperature)]))
        self.bias = nn.Parameter(torch.tensor([math.log(prior / (1 - prior))]))
        self.trained = [True] * num_classes

    def _init_layers(self) -> None:
        super()._init_layers()
        width = self.retina_cls.in_channels
        self.retina_cls = nn.Conv2d(width, self.num_base_priors * self.embed_dim, 3, padding=1)
        self.init_cfg = dict(type='Normal', layer='Conv2d', std=0.01)

    def set_classes(self, trained: Sequence[bool]) -> None:
        """Take other classes; ``trained`` says whether each has boxes in training."""
        self.num_classes = self.cls_out_channels = len(trained)
        self.trained = list(trained)

    def forward_single(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, A * K, h, w) of A anchors a place, and their boxes (B, 4 A, h, w)."""
        embeddings, boxes = super().forward_single(x)
        each = embeddings.unflatten(1, (self.num_base_priors, self.embed_dim)).transpose(1, 2)  # (B, D, A, h, w)
        side, text = self.regions.side, self.regions.text
        cosines = side.combine(side.scores(each.flatten(2, 3), text)).unflatten(2, each.shape[2:4])
        logits = self.temperature.float() * cosines[:, : self.num_classes] + self.bias.float()
        return logits.transpose(1, 2).flatten(1, 2), boxes

    def loss_by_feat(self, cls_scores: list[Tensor], *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in mmdet; classes that are not trained are left out."""
        novel = torch.tensor(self.trained, device=cls_scores[0].device).logical_not().repeat(self.num_base_priors)
        own = [scores.masked_fill(novel[:, None, None], -100.0) for scores in cls_scores]  # a loss of 0
        return super().loss_by_feat(own, *args, **kwargs)

    def predict_by_feat(
        self,
        cls_scores: list[Tensor],
        bbox_preds: list[Tensor],
        score_factors: list[Tensor] | None = None,
        batch_img_metas: list[dict] | None = None,
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """As in mmdet, with CLIP's opinion on each box before overlapping ones are suppressed."""
        cfg = self.test_cfg if cfg is None else cfg
        plain = super().predict_by_feat(
            cls_scores, bbox_preds, score_factors, batch_img_metas, cfg, rescale=False, with_nms=False
        )
        results = []
        for i, (found, meta) in enumerate(zip(plain, batch_img_metas, strict=True)):
            if self.scorer is not None and len(found):
                boxes = get_box_tensor(found.bboxes)
                rois = torch.cat([boxes.new_full((len(boxes), 1), i), boxes], dim=1)
                clip = self.clip_logits(rois).softmax(dim=-1).gather(1, found.labels[:, None])[:, 0]
                weight = torch.where(self.regions.novel[found.labels], self.beta, self.alpha)
                found.scores = found.scores ** (1 - weight) * clip**weight
            results.append(self._bbox_post_process(found, cfg, rescale, with_nms, meta))
        return results
