"""Segmentors that propose masks and classify each of them by its name, with a Mask2Former of mmdet for the masks.

What FC-CLIP and its successors have in common. Shapes: B images, N queries, each with a mask; K classes with Q names in
all; D channels of the joint space.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.dense_heads import Mask2FormerHead
from mmdet.models.seg_heads.panoptic_fusion_heads import MaskFormerFusionHead
from mmdet.registry import TASK_UTILS
from mmengine.config import ConfigDict
from mmengine.model import BaseModule
from mmengine.structures import InstanceData, PixelData
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageTower
from vlm_dense.errors import ConfigError
from vlm_dense.methods.open_vocabulary.text import OpenVocabularySegmentor
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.inference import own_sizes
from vlm_dense.segmentation.steps import ClassMaps
from vlm_dense.segmentation.window_maps import original_size

STRIP = 2**24
"""Scores of pixels and classes that are in memory at once where only labels are asked for."""

Classify = Callable[[Tensor, Tensor], Tensor]
"""Embeddings (B, N, D), and the logarithm of a temperature's inverse -> logits (B, N, K + 1), nothing last."""

TEMPLATES = (
    'a photo of a {}.',
    'This is a photo of a {}',
    'There is a {} in the scene',
    'There is the {} in the scene',
    'a photo of a {} in the scene',
    *(f'a photo of a {size} {{}}.' for size in ('small', 'medium', 'large')),
    *(f'This is a photo of a {size} {{}}.' for size in ('small', 'medium', 'large')),
    *(f'There is a {size} {{}} in the scene.' for size in ('small', 'medium', 'large')),
)
"""The 14 of FC-CLIP and SAN."""


def mask_pool(features: Tensor, masks: Tensor) -> Tensor:
    """Mean features (B, N, C) of the places (B, C, h, w) where the logits of a mask (B, N, h, w) are positive.

    An empty mask gives 0. There is no gradient to the masks.
    """
    inside = (masks > 0).to(features.dtype)
    return torch.einsum('bchw,bnhw->bnc', features, inside) / (inside.sum(dim=(2, 3))[..., None] + 1e-8)


def region_embeddings(tower: ImageTower, dense: Tensor, masks: Tensor) -> Tensor:
    """Embeddings (B, N, D) of regions of CLIP's last map, as the tower would embed an image of them.

    A ResNet's attention pool attends to the places of the region only; other towers of maps project their mean.

    Args:
        tower: With an attention pool, or ``embed_map``.
        dense: (B, C, h, w), the feature ``patch``.
        masks: Logits (B, N, h, w), positive inside.
    """
    if not hasattr(tower, 'attnpool'):
        return tower.embed_map(mask_pool(dense, masks).mT[..., None])[..., 0].mT
    pool, tokens = tower.attnpool, tower.pool_tokens(dense)
    q, k, v = (
        layer(part).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
        for layer, part in ((pool.q_proj, tokens[:, :1]), (pool.k_proj, tokens[:, 1:]), (pool.v_proj, tokens[:, 1:]))
    )
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # (B, heads, 1, h * w)
    outside = masks.flatten(2)[:, None] <= 0
    weights = scores.expand(-1, -1, masks.shape[1], -1).masked_fill(outside, -torch.inf).softmax(dim=-1)
    mixed = weights.masked_fill(outside, 0) @ v  # nothing of a region without a place
    return pool.c_proj(mixed.transpose(1, 2).flatten(2))


def mask_losses(num_classes: int, num_points: int) -> ConfigDict:
    """Losses and matching of mmdet's ``Mask2FormerHead``, as published."""
    return ConfigDict(
        loss_cls=dict(
            type='mmdet.CrossEntropyLoss',
            use_sigmoid=False,
            loss_weight=2.0,
            reduction='mean',
            class_weight=[1.0] * num_classes + [0.1],
        ),
        loss_mask=dict(type='mmdet.CrossEntropyLoss', use_sigmoid=True, reduction='mean', loss_weight=5.0),
        loss_dice=dict(
            type='mmdet.DiceLoss',
            use_sigmoid=True,
            activate=True,
            reduction='mean',
            naive_dice=True,
            eps=1.0,
            loss_weight=5.0,
        ),
        train_cfg=dict(
            num_points=num_points,
            oversample_ratio=3.0,
            importance_sample_ratio=0.75,
            assigner=dict(
                type='mmdet.HungarianAssigner',
                match_costs=[
                    dict(type='mmdet.ClassificationCost', weight=2.0),
                    dict(type='mmdet.CrossEntropyLossCost', weight=5.0, use_sigmoid=True),
                    dict(type='mmdet.DiceCost', weight=5.0, pred_act=True, eps=1.0),
                ],
            ),
            sampler=dict(type='mmdet.MaskPseudoSampler'),
        ),
    )


def mask2former(
    width: int,
    heads: int,
    num_queries: int,
    encoder_layers: int,
    encoder_ffn: int,
    decoder_layers: int,
    decoder_ffn: int,
    num_points: int,
    num_classes: int,
) -> ConfigDict:
    """Options of mmdet's ``Mask2FormerHead``, those of the published Mask2Formers but for these."""
    relu = dict(type='ReLU', inplace=True)
    attention = dict(embed_dims=width, num_heads=heads, dropout=0.0, batch_first=True)
    positions = dict(num_feats=width // 2, normalize=True)

    def ffn(channels: int) -> dict:
        return dict(embed_dims=width, feedforward_channels=channels, num_fcs=2, ffn_drop=0.0, act_cfg=relu)

    return ConfigDict(
        feat_channels=width,
        out_channels=width,
        num_things_classes=num_classes,
        num_stuff_classes=0,
        num_queries=num_queries,
        num_transformer_feat_level=3,
        pixel_decoder=dict(
            type='mmdet.MSDeformAttnPixelDecoder',
            num_outs=3,
            norm_cfg=dict(type='GN', num_groups=32),
            act_cfg=dict(type='ReLU'),
            encoder=dict(
                num_layers=encoder_layers,
                layer_cfg=dict(self_attn_cfg=dict(attention, num_levels=3, num_points=4), ffn_cfg=ffn(encoder_ffn)),
            ),
            positional_encoding=positions,
        ),
        positional_encoding=positions,
        transformer_decoder=dict(
            return_intermediate=True,
            num_layers=decoder_layers,
            layer_cfg=dict(self_attn_cfg=attention, cross_attn_cfg=attention, ffn_cfg=ffn(decoder_ffn)),
            init_cfg=None,
        ),
        **mask_losses(num_classes, num_points),
    )


def mlp(width: int, channels: int) -> nn.Sequential:
    """Three linear layers with ReLU between them."""
    layers = nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, channels)
    return nn.Sequential(*layers)


class MaskLosses(Mask2FormerHead):
    """Matching and losses of mmdet's Mask2Former for any number of classes; the network is a subclass's.

    The losses are those of all predictions, in which nothing is one more class.

    Args:
        num_classes: K at the start; any other is possible later.
        num_queries: N.
        num_points: At which masks are compared, for matching and losses.
        num_things: Of panoptic targets, how many classes, the first ones, are objects; the others come from label maps.
        ignore_index: Label of pixels of no class, where targets come from label maps.
    """

    align_corners = False
    threshold = 0.5

    def __init__(
        self,
        num_classes: int,
        num_queries: int,
        num_points: int,
        num_things: int | None = None,
        ignore_index: int = 255,
        init_cfg: dict | None = None,
    ):
        BaseModule.__init__(self, init_cfg)
        options = mask_losses(num_classes, num_points)
        self.num_queries, self.out_channels = num_queries, num_classes
        self.num_things, self.ignore_index = num_things, ignore_index
        for name in ('loss_cls', 'loss_mask', 'loss_dice'):
            setattr(self, name, MODELS.build(options[name]))
        self.assigner = TASK_UTILS.build(options.train_cfg.assigner)
        self.sampler = TASK_UTILS.build(options.train_cfg.sampler, default_args=dict(context=self))
        self.num_points = num_points
        self.oversample_ratio = options.train_cfg.oversample_ratio
        self.importance_sample_ratio = options.train_cfg.importance_sample_ratio
        self.num_classes = num_classes

    @property
    def num_classes(self) -> int:
        """K; the loss of classes follows it."""
        return self._num_classes

    @num_classes.setter
    def num_classes(self, number: int) -> None:
        self._num_classes, self.class_weight = number, [1.0] * number + [0.1]
        if hasattr(self, 'loss_cls'):
            self.loss_cls.class_weight = self.class_weight

    def losses(
        self,
        logits: Sequence[Tensor],
        masks: Sequence[Tensor],
        data_samples: list,
        size: Sequence[int] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of all predictions.

        Args:
            logits: (B, N, K + 1) of each prediction.
            masks: (B, N, h, w) of each.
            data_samples: With ``gt_instances``, masks (n, H, W) and labels (n,); or with ``gt_sem_seg`` (1, H, W), of
                which each class is a target; or with both, for panoptic targets.
            size: (H, W) of the padded images, to which targets are padded with nothing.
        """
        targets = [self.targets_of(sample, logits[0].device) for sample in data_samples]
        for target in targets if size is not None else ():
            height, width = target.masks.shape[1:]
            target.masks = F.pad(target.masks, (0, size[1] - width, 0, size[0] - height))
        return self.loss_by_feat(logits, masks, targets, [sample.metainfo for sample in data_samples])

    def targets_of(self, sample, device: torch.device) -> InstanceData:
        """Masks (n, H, W), bool, and labels (n,) of a sample, see :meth:`losses`."""
        labels, masks = [], []
        if 'gt_instances' in sample:
            own = sample.gt_instances
            labels.append(own.labels)
            masks.append(own.masks if isinstance(own.masks, Tensor) else own.masks.to_tensor(torch.bool, device))
        if 'gt_sem_seg' in sample and (not labels or self.num_things is not None):
            [found] = sample.gt_sem_seg.all_values()  # mmseg's data, or mmdet's sem_seg
            found = found.squeeze(0)
            classes = found.unique().long()
            classes = classes[(classes != self.ignore_index) & (classes >= (self.num_things or 0) * len(labels))]
            labels.append(classes)
            masks.append(found[None] == classes[:, None, None])
        return InstanceData(labels=torch.cat(labels), masks=torch.cat([mask.bool() for mask in masks]))


@MODELS.register_module()
class NamedMask2FormerHead(MaskLosses):
    """mmdet's Mask2Former with masks classified by the embeddings of names.

    The model gives :attr:`classify` before each call.

    Args:
        num_classes: K at the start; any other is possible later.
        in_channels: Of the tower's maps of strides 4, 8, 16 and 32; the model fills them in.
        embed_dim: D; the model fills it in.
        width: Channels of decoders and queries.
        heads: Attention heads.
        num_queries: N.
        encoder_layers, encoder_ffn: Of the pixel decoder.
        decoder_layers, decoder_ffn: Of the decoder of queries.
        num_points: At which masks are compared, for matching and losses.
        enforce_decoder_input_project: As in mmdet.
        num_things: Of panoptic targets, how many classes, the first ones, are objects; the others come from label maps.
        ignore_index: Label of pixels of no class, where targets come from label maps.
    """

    classify: Classify | None = None

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int],
        embed_dim: int,
        width: int = 256,
        heads: int = 8,
        num_queries: int = 250,
        encoder_layers: int = 6,
        encoder_ffn: int = 1024,
        decoder_layers: int = 9,
        decoder_ffn: int = 2048,
        num_points: int = 12544,
        enforce_decoder_input_project: bool = False,
        num_things: int | None = None,
        ignore_index: int = 255,
        init_cfg: dict | None = None,
    ):
        if len(in_channels) != 4:
            raise ConfigError(
                f'NamedMask2FormerHead reads maps of strides 4, 8, 16 and 32, found {len(in_channels)} maps. Use a '
                "tower with four stages, as 'convnext_large_d_320' or 'RN50', with all of them in out_indices."
            )
        if width % heads or width % 32:
            raise ConfigError(
                f'NamedMask2FormerHead: width must be a multiple of 32 and of heads={heads}, found {width}.'
            )
        parts = mask2former(
            width,
            heads,
            num_queries,
            encoder_layers,
            encoder_ffn,
            decoder_layers,
            decoder_ffn,
            num_points,
            num_classes,
        )
        Mask2FormerHead.__init__(
            self,
            in_channels=list(in_channels),
            enforce_decoder_input_project=enforce_decoder_input_project,
            init_cfg=init_cfg,
            **parts,
        )
        del self.cls_embed
        self.out_channels, self.num_things, self.ignore_index = num_classes, num_things, ignore_index
        self.mask_pooling_proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width))
        self.class_embed = mlp(width, embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())

    def init_weights(self) -> None:
        """As the release does: uniform values where mmdet draws normal ones."""
        super().init_weights()
        for part in (self.pixel_decoder.encoder, self.transformer_decoder):
            for name, parameter in part.named_parameters():
                if parameter.dim() > 1 and 'sampling_offsets' not in name and 'attention_weights' not in name:
                    nn.init.xavier_uniform_(parameter)

    def _forward_head(
        self, decoder_out: Tensor, mask_feature: Tensor, attn_mask_target_size: tuple[int, int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As in mmdet, with classes by names: logits (B, N, K + 1), masks (B, N, h, w), and what attention bars."""
        if self.classify is None:
            raise ConfigError("NamedMask2FormerHead has no classifier. Use it in type='vlm_dense.FCCLIP'.")
        queries = self.transformer_decoder.post_norm(decoder_out)
        masks = torch.einsum('bnc,bchw->bnhw', self.mask_embed(queries), mask_feature)
        pooled = self.mask_pooling_proj(mask_pool(mask_feature, masks))
        logits = self.classify(self.class_embed(pooled + queries), self.logit_scale)
        barred = F.interpolate(masks, attn_mask_target_size, mode='bilinear', align_corners=False)
        barred = (barred.flatten(2).sigmoid() < 0.5).detach()
        return logits, masks, barred[:, None].repeat(1, self.num_heads, 1, 1).flatten(0, 1)


# --- the model --------------------------------------------------------------------------------------------------------


class ProposalSegmentor(OpenVocabularySegmentor):
    """Base of the segmentors that propose masks; the masks also make panoptic segments and instances.

    Args:
        backbone, text_encoder, decode_head, class_names, **kwargs: See
            :class:`~vlm_dense.methods.open_vocabulary.text.OpenVocabularySegmentor`.
        masks_first: Masks go to the original size before they are summed up; else the sum goes there.
        pad_multiple: Images are padded at the right and bottom to a multiple of this.
        panoptic: Also give each sample ``pred_panoptic_seg`` and ``pred_instances``, as mmdet's metrics read them:
            ``things``, a list of classes or how many of the first ones are objects, and the options of
            :meth:`panoptic` and :meth:`instances`. Masks then go to the original size first.
    """

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict,
        masks_first: bool = False,
        pad_multiple: int = 32,
        panoptic: dict | None = None,
        **kwargs: Any,
    ):
        super().__init__(backbone, text_encoder, decode_head, **kwargs)
        self.void_embedding = nn.Embedding(1, self.text_encoder.embed_dim)
        self.masks_first = masks_first or panoptic is not None
        self.panoptic_cfg = panoptic
        self.pad_multiple = pad_multiple

    def classify(self, embeddings: Tensor, text: Tensor, logit_scale: Tensor) -> Tensor:
        """Logits (B, N, K + 1) of embeddings (B, N, D): those of the classes, and of nothing.

        Args:
            embeddings: Not normalised.
            text: Class embeddings of what :meth:`_prompt_names` gives, as the prompt gives them.
            logit_scale: Logarithm of the inverse temperature, which is at most 100.
        """
        side = self.text_side
        names = side.combine(side.scores(embeddings.mT[..., None], text))[..., 0].mT  # (B, N, Q)
        names = self.of_classes(names)
        void = F.normalize(self.void_embedding.weight[0], dim=0)
        nothing = F.normalize(embeddings.float(), dim=-1) @ void
        return logit_scale.exp().clamp(max=100) * torch.cat([names, nothing[..., None]], dim=-1)

    def of_classes(self, names: Tensor) -> Tensor:
        """Logits of the classes (B, N, K) of those of the strings that the prompt was given (B, N, Q)."""
        return names

    # --- masks ------------------------------------------------------------------------------------------------

    def last_prediction(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of masks (B, N, h, w) and logarithms of scores (B, N, K + 1), of padded images (B, 3, H, W)."""
        raise NotImplementedError

    def padded(self, images: Tensor, value: float = 0) -> Tensor:
        """Images or label maps (B, ..., H, W) with sides that are multiples of ``pad_multiple``."""
        height, width = images.shape[-2:]
        return F.pad(images, (0, -width % self.pad_multiple, 0, -height % self.pad_multiple), value=value)

    def masks_and_scores(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of masks (B, N, H, W) at the size of the images (B, 3, H, W), and logarithms of scores."""
        height, width = images.shape[2:]
        padded = self.padded(images)
        masks, scores = self.last_prediction(padded)
        masks = F.interpolate(masks, padded.shape[2:], mode='bilinear', align_corners=False)
        return masks[:, :, :height, :width], scores

    @staticmethod
    def semantic(scores: Tensor, masks: Tensor) -> Tensor:
        """Scores of classes (B, K, H, W): the sum over queries of class and mask probabilities."""
        return torch.einsum('bnk,bnhw->bkhw', scores.softmax(dim=-1)[..., :-1], masks.sigmoid())

    def _forward(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        """Scores of classes (B, K, H, W) of images (B, 3, H, W)."""
        masks, scores = self.masks_and_scores(inputs)
        return self.semantic(scores, masks)

    def class_maps(self, values: Tensor) -> ClassMaps:
        """Sums of probabilities."""
        return ClassMaps(values, kind='probabilities')

    # --- from masks to labels ---------------------------------------------------------------------------------

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """As in :class:`BatchedInference`; with ``masks_first`` masks go to the original size before the sum."""
        if not self.masks_first or data_samples is None or self._mode() != 'whole':
            return super().predict(inputs, data_samples)
        order, images = own_sizes(inputs, data_samples)
        for index, image in zip(order, images, strict=True):
            sample = data_samples[index]
            masks, scores = self.masks_and_scores(image[None])
            masks = original_size(masks[0], sample.metainfo)
            if self.panoptic_cfg is not None:
                self._add_objects(sample, scores[0], masks, **self.panoptic_cfg)
            if self.test_cfg.get('keep_logits', True):
                found = self.semantic(scores, masks[None])[0]
                sample.set_data(dict(seg_logits=PixelData(data=found)))
                labels = self._labels(found)
            else:
                rows = max(STRIP // (self.num_classes * masks.shape[2]), 1)
                strips = (self.semantic(scores, strip[None])[0] for strip in masks.split(rows, dim=1))
                labels = torch.cat([self._labels(strip) for strip in strips])
            sample.set_data(dict(pred_sem_seg=PixelData(data=labels[None])))
        return data_samples

    def _labels(self, found: Tensor) -> Tensor:
        """Labels (H, W) of scores (K, H, W); one class is told from nothing, as everywhere."""
        if len(found) == 1:
            return (found[0] > self.decode_head.threshold).to(found)
        return found.argmax(dim=0)

    def _add_objects(
        self, sample, scores: Tensor, masks: Tensor, things: int | Sequence[int], top_k: int = 100, **options: float
    ) -> None:
        things = range(things) if isinstance(things, int) else things
        wrong = [k for k in things if not 0 <= k < self.num_classes]
        if wrong:
            raise ConfigError(
                f'{type(self).__name__}: panoptic.things names class {wrong[0]}, but there are {self.num_classes}.'
            )
        segments = self.panoptic(scores, masks, things, **options)
        objects = self.instances(scores, masks, things, top_k)
        sample.set_data(dict(pred_panoptic_seg=PixelData(sem_seg=segments[None]), pred_instances=objects))

    def panoptic(self, scores: Tensor, masks: Tensor, things: Sequence[int], **options: float) -> Tensor:
        """Panoptic segments of an image, by mmdet's rule.

        Args:
            scores: Logarithms (N, K + 1).
            masks: Logits (N, H, W) at the size that the segments shall have.
            things: Classes of which each segment is an object of its own.
            **options: ``object_mask_thr`` and ``iou_thr``, see mmdet's ``MaskFormerFusionHead``.

        Returns:
            (H, W), int64: class + 1000 * i of the i-th object, class of stuff, and K where there is nothing.
        """
        head, order = self._fusion(things, **options)
        found = head.panoptic_postprocess(scores[:, [*order, -1]], masks).sem_seg[0].long()
        names = torch.tensor([*order, len(order)], device=found.device)
        return names[found % 1000] + found // 1000 * 1000

    def instances(self, scores: Tensor, masks: Tensor, things: Sequence[int], top_k: int = 100) -> InstanceData:
        """Objects of an image, by mmdet's rule: ``scores``, ``labels``, ``masks`` (n, H, W) and ``bboxes``.

        Args:
            scores, masks, things: As of :meth:`panoptic`.
            top_k: Pairs of query and class that are looked at.
        """
        head, order = self._fusion(things, max_per_image=min(top_k, scores[:, :-1].numel()))
        found = head.instance_postprocess(scores[:, [*order, -1]], masks)
        found.labels = torch.tensor(order, device=found.labels.device)[found.labels]
        return found

    def _fusion(self, things: Sequence[int], **options: float) -> tuple[MaskFormerFusionHead, list[int]]:
        order = [*things, *(k for k in range(self.num_classes) if k not in things)]
        cfg = ConfigDict(dict(object_mask_thr=0.0, iou_thr=0.8, filter_low_score=True) | options)
        return MaskFormerFusionHead(len(things), len(order) - len(things), test_cfg=cfg), order
