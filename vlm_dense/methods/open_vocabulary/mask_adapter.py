"""Mask-Adapter: learned maps under which CLIP's features are pooled, instead of the masks themselves.

"Mask-Adapter: The Devil is in the Masks for Open-Vocabulary Segmentation", CVPR 2025, section 3.

The mean of CLIP's features under a hard mask loses the context and takes in what a wrong mask covers. A small
convolutional network reads CLIP's map and one mask and gives several soft maps, under which the features are pooled.
It takes the place of the pooling in a trained FC-CLIP or MAFT+, of which everything else stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.dist import is_distributed
from mmengine.hooks import Hook
from mmseg.utils import add_prefix
from timm.layers import LayerNorm2d
from timm.models.convnext import ConvNeXtBlock
from torch import Tensor, nn

from vlm_dense.errors import ConfigError, unknown_name
from vlm_dense.methods.open_vocabulary.fc_clip import FCCLIP
from vlm_dense.methods.open_vocabulary.maft_plus import MAFTPlus
from vlm_dense.methods.open_vocabulary.text import ClassNames
from vlm_dense.registry import HOOKS, MODELS

PAPER = dict(
    name='Mask-Adapter',
    title='Mask-Adapter: The Devil is in the Masks for Open-Vocabulary Segmentation',
    venue='CVPR 2025',
    link='https://arxiv.org/abs/2412.04533',
    code='https://github.com/hustvl/MaskAdapter',
    licence='Apache-2.0',
    idea='A small network turns each mask into soft maps under which features of CLIP are pooled, in FC-CLIP or MAFT+.',
    trains='the network that makes maps, embedding of nothing',
    published='mIoU of A-847 / A-150 / PC-459 / PC-59 / PAS-20: on FC-CLIP 14.1 / 36.6 / 19.3 / 59.7 / 95.5, '
    'on MAFT+ Base 14.2 / 35.6 / 17.9 / 58.4 / 95.1, on MAFT+ Large 16.2 / 38.2 / 22.7 / 60.4 / 95.8',
    contract='any T; maps of four strides, the last one under learned maps',
    notes="""
Training has two stages, each a config: `*_warmup.py` on masks of the training data, which starts from the weights of
the base model, and mixed masks, which starts from the weights of the warm-up. `mask_adapter_shapes.py` trains an
FC-CLIP and both stages in one run. The official networks need a ConvNeXt; here a ResNet embeds places and pooled
features by the value path of its attention pool.
""",
)

STAGES = ('proposals', 'warmup', 'mixed')


@MODELS.register_module()
class SemanticActivationMaps(nn.Module):
    """Soft maps of masks, section 3.2.

    Args:
        embed_dim: D; the model fills it in.
        mask_channels: Of the network that reads a mask.
        width: Of the blocks.
        num_maps: k, of each mask.
        masks_at_once: How many masks of each image are in memory at a time.
    """

    def __init__(
        self, embed_dim: int, mask_channels: int = 16, width: int = 768, num_maps: int = 16, masks_at_once: int = 32
    ):
        super().__init__()
        quarter = mask_channels // 4
        if quarter < 1 or masks_at_once < 1:
            raise ConfigError(
                'SemanticActivationMaps: mask_channels must be at least 4 and masks_at_once at least 1, found '
                f'{mask_channels} and {masks_at_once}.'
            )
        self.num_maps, self.masks_at_once = num_maps, masks_at_once
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, quarter, 3, stride=2, padding=1),
            LayerNorm2d(quarter),
            nn.GELU(),
            nn.Conv2d(quarter, mask_channels, 3, stride=2, padding=1),
            LayerNorm2d(mask_channels),
            nn.GELU(),
            nn.Conv2d(mask_channels, embed_dim, 1),
        )
        self.fuse = nn.Conv2d(embed_dim, width, 1)
        self.blocks = nn.Sequential(*(ConvNeXtBlock(width, ls_init_value=1e-6) for _ in range(3)))
        self.norm = LayerNorm2d(width, eps=1e-5)
        self.final = nn.Conv2d(width, num_maps, 1)

    def forward(self, places: Tensor, masks: Tensor) -> Tensor:
        """Logits of maps (B, N * k, h, w), those of a mask together.

        Args:
            places: Embeddings of places (B, D, h, w).
            masks: (B, N, H, W), from 0 to 1, of any size.
        """
        height, width = places.shape[2:]
        found = []
        for some in masks.to(places.dtype).split(self.masks_at_once, dim=1):
            number = some.shape[1]
            some = F.interpolate(some, (4 * height, 4 * width), mode='bilinear', align_corners=False)
            x = self.mask_downscaling(some.flatten(0, 1)[:, None]) + places.repeat_interleave(number, dim=0)
            found.append(self.final(self.norm(self.blocks(self.fuse(x)))).unflatten(0, (-1, number)))
        return torch.cat(found, dim=1).flatten(1, 2)


class AdaptedRegions(FCCLIP):
    """What both models with a Mask-Adapter have in common; the masks of the base model have no gradient.

    Args:
        mask_adapter: Options of :class:`SemanticActivationMaps`.
        stage: What :meth:`loss` trains: ``'warmup'``, the adapter on masks of the data; ``'mixed'``, the adapter on
            these, on predicted masks, and on those of the data that they match; ``'proposals'``, the Mask2Former, for
            :class:`StagesHook`.
        mask_threshold: Probability above which a predicted mask is 1.
        iou_threshold: Predicted masks of the training match a mask of the data from this IoU on.
        num_gt_masks, num_pred_masks: How many of an image are in a mixed training; the warm-up has
            ``num_gt_masks + 2 * num_pred_masks`` of the data.
        cosine_weight: Of the loss between embeddings of predicted masks and those that they match.

    Attributes:
        match_threshold: Probability above which a predicted mask is 1 in that IoU.
        detach_targets: Embeddings that others are drawn to get no gradient from it.
    """

    match_threshold = 0.4
    detach_targets = True

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict | None = None,
        class_names: ClassNames | None = None,
        mask_adapter: dict | None = None,
        stage: str = 'mixed',
        mask_threshold: float = 0.5,
        iou_threshold: float = 0.7,
        num_gt_masks: int = 16,
        num_pred_masks: int = 8,
        cosine_weight: float = 5.0,
        alpha: float = 0.7,
        beta: float = 0.9,
        **kwargs: Any,
    ):
        super().__init__(backbone, text_encoder, decode_head, class_names, alpha=alpha, beta=beta, **kwargs)
        if self.ensemble_on_valid_mask:
            raise ConfigError(
                f'{type(self).__name__}: learned maps cover the whole image, so that each mask has a place. Leave '
                'ensemble_on_valid_mask out.'
            )
        if not hasattr(self.backbone, 'embed_map'):
            raise ConfigError(
                f'{type(self).__name__} embeds single places of the last map, which a {type(self.backbone).__name__} '
                "does not do. Use vlm_dense.CLIPTower of a ConvNeXt ('convnext_large_d_320') or a ResNet."
            )
        for name, value in (('mask_threshold', mask_threshold), ('iou_threshold', iou_threshold)):
            if not 0 <= value < 1:
                raise ConfigError(f'{type(self).__name__}: {name} must be from 0 to below 1, found {value}.')
        self.mask_adapter = MODELS.build(
            dict(type='vlm_dense.SemanticActivationMaps', embed_dim=self.backbone.embed_dim) | dict(mask_adapter or {})
        )
        self.mask_threshold, self.iou_threshold = mask_threshold, iou_threshold
        self.num_gt_masks, self.num_pred_masks = num_gt_masks, num_pred_masks
        self.cosine_weight = cosine_weight
        if stage not in STAGES:
            raise ConfigError(f'{type(self).__name__}: {unknown_name(stage, "stages", STAGES)}')
        self.stage = stage
        self.decode_head.requires_grad_(stage == 'proposals')

    # --- classifier -------------------------------------------------------------------------------------------

    def places(self, dense: Tensor) -> Tensor:
        """Embeddings of places (B, D, h, w) that the adapter reads, of CLIP's last map (B, C, h, w)."""
        return self.backbone.embed_map(dense)

    def embed_masks(self, dense: Tensor, masks: Tensor) -> Tensor:
        """Embeddings (B, N, D) of masks (B, N, H, W), from 0 to 1, on CLIP's last map (B, C, h, w)."""
        maps = self.mask_adapter(self.places(dense), masks)
        weights = F.logsigmoid(maps.flatten(2)).softmax(dim=-1)
        pooled = weights @ dense.flatten(2).mT  # (B, N * k, C)
        embedded = self.backbone.embed_map(pooled.mT[..., None])[..., 0].mT
        return embedded.unflatten(1, (-1, self.mask_adapter.num_maps)).mean(dim=2)

    def embed_regions(self, dense: Tensor, masks: Tensor) -> Tensor:
        """As of :class:`FCCLIP`."""
        return self.embed_masks(dense, masks.sigmoid() > self.mask_threshold)

    # --- training ---------------------------------------------------------------------------------------------

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses of images (B, 3, H, W): ``loss_ce`` and, with mixed masks, ``loss_cosine``; and ``prompt.*``."""
        if self.stage == 'proposals':
            return super().loss(inputs, data_samples)
        features, text = self.extract_feat(inputs)
        targets = [self._targets(sample, inputs.device) for sample in data_samples]
        if self.stage == 'warmup':
            masks, labels = self.slots(targets, self.num_gt_masks + 2 * self.num_pred_masks, inputs.shape[2:])
        else:
            masks, labels = self.slots(targets, self.num_gt_masks, inputs.shape[2:])
            with torch.no_grad():
                predicted = self.propose(features, text)[1][-1]
            pairs, pair_labels = self.matched(predicted, targets, inputs.shape[2:])
            masks = torch.cat([masks, pairs], dim=1)
            labels = torch.cat([labels, pair_labels, pair_labels], dim=1)
        embeddings = self.embed_masks(features.patch, masks)
        logits = self.logits(embeddings, features.patch, text)
        losses = dict(loss_ce=2 * named_loss(logits, labels))
        if self.stage == 'mixed':
            found, wanted = embeddings[:, self.num_gt_masks :].split(self.num_pred_masks, dim=1)
            wanted = wanted.detach() if self.detach_targets else wanted
            losses['loss_cosine'] = self.cosine_weight * (1 - F.cosine_similarity(found, wanted, dim=-1).mean())
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses

    def _targets(self, sample, device: torch.device) -> tuple[Tensor, Tensor]:
        """Masks (n, H, W) that are not empty, and their labels (n,)."""
        target = self.decode_head.targets_of(sample, device)
        full = target.masks.flatten(1).any(dim=1)
        return target.masks[full].float(), target.labels[full]

    @staticmethod
    def slots(targets: Sequence[tuple[Tensor, Tensor]], number: int, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """So many masks (B, number, H, W) of each image, drawn from more, and labels, -1 for those that are empty."""
        masks = targets[0][0].new_zeros(len(targets), number, *size)
        labels = masks.new_full((len(targets), number), -1, dtype=torch.long)
        for i, (own, names) in enumerate(targets):
            chosen = some_of(len(names), number)
            masks[i, : len(chosen)], labels[i, : len(chosen)] = own[chosen], names[chosen]
        return masks, labels

    def matched(
        self, predicted: Tensor, targets: Sequence[tuple[Tensor, Tensor]], size: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Predicted masks and those of the data that they match (B, 2 * P, H, W), and labels of the pairs (B, P).

        Args:
            predicted: Logits (B, N, h, w).
            targets: Masks (n, H, W) and labels (n,) of each image.
            size: (H, W).
        """
        batch, number = len(predicted), self.num_pred_masks
        pairs = predicted.new_zeros(batch, 2 * number, *predicted.shape[2:])
        labels = predicted.new_full((batch, number), -1, dtype=torch.long)
        for i, (masks, names) in enumerate(targets):
            if not len(names):
                continue
            masks = F.interpolate(masks[None], predicted.shape[2:], mode='bilinear', align_corners=False)[0]
            good = self.ious(predicted[i], masks) > self.iou_threshold
            rows, columns = [], []
            for k, candidates in enumerate(good.T):
                candidates = candidates.nonzero()[:, 0]
                if len(candidates):
                    rows.append(candidates[int(torch.rand(1).item() * len(candidates))])
                    columns.append(k)
            chosen = some_of(len(rows), number).tolist()
            for slot, j in enumerate(chosen):
                pairs[i, slot], pairs[i, number + slot] = predicted[i, rows[j]], masks[columns[j]]
                labels[i, slot] = names[columns[j]]
        pairs[:, :number] = (pairs[:, :number].sigmoid() > self.mask_threshold).float()
        return F.interpolate(pairs, tuple(size), mode='bilinear', align_corners=False), labels

    def ious(self, predicted: Tensor, masks: Tensor) -> Tensor:
        """IoU (N, n) of logits (N, h, w) and masks (n, h, w)."""
        found = (predicted.sigmoid() >= self.match_threshold).flatten(1).float()
        wanted = (masks > 0.5).flatten(1).float()
        both = found @ wanted.T
        return both / (found.sum(dim=1)[:, None] + wanted.sum(dim=1) - both + 1e-6)

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _read_official(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Read the official release."""
        for key in list(state_dict):
            name = key.removeprefix(prefix)
            for pattern, ours in _OFFICIAL:
                name = re.sub(pattern, ours, name)
            if name != key.removeprefix(prefix):
                state_dict[prefix + name] = state_dict.pop(key)
        super()._read_official(state_dict, prefix, *args)


_OFFICIAL = (
    (r'^(mask_adapter)\.cnext1\.', r'\1.blocks.0.'),
    (r'^(mask_adapter)\.cnext2\.', r'\1.blocks.1.'),
    (r'^(mask_adapter)\.cnext3\.', r'\1.blocks.2.'),
    (r'^(mask_adapter\.blocks\.\d)\.dwconv\.', r'\1.conv_dw.'),
    (r'^(mask_adapter\.blocks\.\d)\.pwconv(\d)\.', r'\1.mlp.fc\2.'),
)


@MODELS.register_module()
class MaskAdapterFCCLIP(AdaptedRegions):
    """Mask-Adapter on FC-CLIP, see :class:`AdaptedRegions`."""


@MODELS.register_module()
class MaskAdapterMAFTPlus(AdaptedRegions, MAFTPlus):
    """Mask-Adapter on MAFT+, see :class:`AdaptedRegions`; towers and rewriting of class embeddings are frozen.

    A test has FC-CLIP's ensemble of both classifiers, unlike MAFT+.
    """

    match_threshold = 0.5
    detach_targets = False
    scores = FCCLIP.scores

    def __init__(self, *args: Any, alpha: float = 0.8, beta: float = 1.0, mask_threshold: float = 0.4, **kwargs: Any):
        super().__init__(*args, alpha=alpha, beta=beta, mask_threshold=mask_threshold, **kwargs)
        if self.stage == 'proposals':
            raise ConfigError(
                "MaskAdapterMAFTPlus: the Mask2Former is trained with the tower, by type='vlm_dense.MAFTPlus'. Load "
                "its checkpoint, and use stage='warmup' or 'mixed'."
            )
        self.cdt.requires_grad_(False)
        self.void_embedding.requires_grad_(self.stage == 'warmup')

    def _tune_trunk(self) -> None:
        """Nothing of the tower, and no frozen copy of it."""

    def places(self, dense: Tensor) -> Tensor:
        """The tokens of MAFT+'s attention to the image."""
        return self.image_tokens(dense)


def some_of(count: int, number: int) -> Tensor:
    """Indices of at most ``number`` of ``count`` things, all in order or the first ones of a permutation."""
    return torch.arange(count) if count <= number else torch.randperm(count)[:number]


def named_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of logits (B, N, K + 1) where a label (B, N) is not -1; 0 if there is none."""
    if (labels < 0).all():
        return 0 * logits.sum()
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-1)


@HOOKS.register_module()
class StagesHook(Hook):
    """Trains the stages of a :class:`MaskAdapterFCCLIP` one after the other in one run of one process.

    The model begins with ``stage='proposals'``, in which all weights that any stage trains have a gradient.

    Args:
        stages: Stage -> iteration at which it begins, the first one at 0.
    """

    def __init__(self, stages: dict[str, int]):
        starts = list(stages.values())
        if not starts or starts[0] != 0 or starts != sorted(set(starts)):
            raise ConfigError(
                f'StagesHook: stages must begin at 0, each at a later iteration than the one before, found {stages}.'
            )
        self.stages = dict(stages)

    def before_train(self, runner) -> None:
        """Look whether all stages can be trained."""
        if is_distributed():
            raise ConfigError(
                'StagesHook: the weights that get a gradient change with the stage, which distributed training does '
                'not follow. Train in one process, or each stage in a run of its own with stage=... of the model.'
            )
        if 'proposals' in self.stages and runner.model.stage != 'proposals':
            raise ConfigError(
                f'StagesHook trains proposals, which are frozen in a model with stage={runner.model.stage!r}. Write '
                "model=dict(stage='proposals')."
            )

    def before_train_iter(self, runner, batch_idx: int, data_batch: Any = None) -> None:
        """Set the stage of this iteration."""
        stage = [name for name, start in self.stages.items() if start <= runner.iter][-1]
        if runner.model.stage != stage:
            runner.model.stage = stage
            runner.logger.info(f'Iteration {runner.iter}: the stage is {stage}.')
        if runner.iter == self.stages[stage]:
            scalars = runner.message_hub.log_scalars  # without this, losses of the stage before stay in the log
            for name in [name for name in scalars if name.startswith('train/') and 'loss' in name]:
                del scalars[name]
