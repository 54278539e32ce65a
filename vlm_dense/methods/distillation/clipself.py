"""CLIPSelf: a ViT's dense map learns from the embeddings that the same ViT gives to image crops.

CLIP's ViT names an image that was cut out much better than a region of its own dense map. CLIPSelf takes regions of a
random grid, or proposals, and trains the blocks of the ViT until a region of the map has the embedding that the frozen
original gives to the region when it is cut out. No label and no text is needed, and the tower that comes out is an
ordinary CLIP tower.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmcv.ops import roi_align
from mmengine.logging import print_log
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement
from torch import Tensor

from vlm_dense.clip.block_tower import BlockTower
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.preprocessing import colours_of_tag
from vlm_dense.clip.tower import CLIPTower
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.contract.text_side import TextSide
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import MODELS, registered
from vlm_dense.vocabulary.class_names import one_name_each

PAPER = dict(
    name='CLIPSelf',
    title='CLIPSelf: Vision Transformer Distills Itself for Open-Vocabulary Dense Prediction',
    venue='ICLR 2024',
    link='https://arxiv.org/abs/2310.01403',
    code='https://github.com/wusize/CLIPSelf',
    licence='NTU S-Lab 1.0',
    idea=(
        'Regions of the dense map of a CLIP ViT are trained to have the embeddings that the frozen original gives to '
        'the same regions when they are cut out.'
    ),
    contract='Hook that mixes weights; no text; a BlockTower; its `value` on boxes against `global` of crops',
    published='F-ViT on OV-COCO, AP50 of novel classes, EVA-02-CLIP B/16 and L/14: 33.6 and 38.4 with image patches, '
    '37.6 and 44.3 with proposals; on OV-LVIS, mask AP of rare classes: 25.3 and 34.9 with image patches',
    notes="""
`vlm_dense.MixedTowerHook` mixes the weights before and after the training and writes `tower.pth`, a CLIP that every
`pretrained=` of this project reads:

```bash
python tools/train.py configs/clipself/clipself_shapes.py --work-dir work_dirs/clipself
python tools/test.py configs/maskclip/maskclip-windows_tiny-vit_shapes.py \\
    --cfg-options model.backbone.pretrained=work_dirs/clipself/tower.pth
```

The published training takes 8 GPUs with 2 images each and mixed precision (`--amp`). The released checkpoints are
EVA-02 towers; their files are read as `pretrained=` of `EVA02-B-16` and `EVA02-L-14-336`. Proposals are boxes of a COCO
file, read as annotations.
""",
)


def box_features(dense: Tensor, boxes: Sequence[Tensor], image_size: tuple[int, int]) -> Tensor:
    """Mean of a map in boxes by RoIAlign on one cell, aligned, as many samples as a box has positions.

    Args:
        dense: (B, D, h, w).
        boxes: B tensors (n_i, 4), x1 y1 x2 y2 in pixels.
        image_size: (H, W) in pixels, of what the map covers.

    Returns:
        (sum of n_i, D), float32; not normalised.
    """
    size = dense.new_tensor([dense.shape[3] / image_size[1], dense.shape[2] / image_size[0]], dtype=torch.float32)
    rois = [torch.cat([own.new_full((len(own), 1), i), own * size.repeat(2)], dim=1) for i, own in enumerate(boxes)]
    pooled = roi_align(dense.float(), torch.cat(rois).float(), (1, 1), 1.0, 0, 'avg', True)
    return pooled.flatten(1)


def mask_features(dense: Tensor, masks: Sequence[Tensor]) -> Tensor:
    """Mean of a map in masks.

    Args:
        dense: (B, D, h, w).
        masks: B tensors (n_i, H, W) of any size, bool or 0 and 1; one of another size than the map is resized
            bilinearly, and every position that it touches counts.

    Returns:
        (sum of n_i, D), float32; not normalised, 0 for a mask without position.
    """
    found = []
    for own, mask in zip(dense.float(), masks, strict=True):
        mask = mask.float()
        if mask.shape[1:] != own.shape[1:]:
            mask = F.interpolate(mask[:, None], own.shape[1:], mode='bilinear', align_corners=False)[:, 0]
        inside = (mask > 0).float()
        total = torch.einsum('dhw,nhw->nd', own, inside)
        found.append(total / (inside.sum(dim=(1, 2)) + 1e-12)[:, None])
    return torch.cat(found)


@MODELS.register_module()
class CLIPSelf(BaseModel):
    """A CLIP ViT that is trained to name the regions of its map as its frozen original names them cut out.

    Call graph::

        loss --> backbone.encode(images, 'value') --> / length at each position --> RoIAlign 1 x 1 --> s
             |-> teacher.encode(crops, 'global') --> u, without gradient
             +-> 1 - mean over all regions of <s / |s|, u / |u|>                        (section 3.2, eq. 2)
        predict --> s of annotated boxes, compared with the class embeddings

    "CLIPSelf: Vision Transformer Distills Itself for Open-Vocabulary Dense Prediction", ICLR 2024.

    Args:
        backbone: Any tower of blocks, ``vlm_dense.CLIPViT`` or ``vlm_dense.CLIPTimmViT``; ``head=True`` is set. Its
            ``dense_attention`` makes the map; the default is the paper's, the last block without attention.
        teacher: What its config changes in ``backbone``'s for a teacher of its own, as ``dict(arch='ViT-L-14')``.
            Default: a copy of ``backbone`` as it is built.
        cosine_weight: Of the loss.
        trained_groups: How many of the groups patch embedding (with class token and ``ln_pre``), positions, first
            block, ..., last block are trained, counted from the last; default: all blocks. Last norm and projection
            never are. ``CLIPTimmViT``: blocks only.
        unit_map: Normalise the map before RoIAlign.
        text_encoder, text_prompt, class_names: For tests only: names of the annotated boxes, see
            :class:`vlm_dense.methods.maskclip.MaskCLIP`. Without them there is nothing to predict.
        data_preprocessor: ``vlm_dense.RegionDataPreprocessor``.

    Raises:
        ConfigError: a backbone that is no tower of blocks, or with an ``image_prompt``; a teacher with another joint
            space; groups that do not exist.
    """

    def __init__(
        self,
        backbone: dict,
        teacher: dict | None = None,
        cosine_weight: float = 1.0,
        trained_groups: int | None = None,
        unit_map: bool = True,
        text_encoder: dict | None = None,
        text_prompt: dict | None = None,
        class_names: str | Sequence[str] | None = None,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(colours_of_tag(data_preprocessor, backbone), init_cfg)
        self.backbone = _tower(backbone, type(self).__name__)
        self.teacher, self.teacher_is_beginning = self._build_teacher(backbone, teacher), teacher is None
        self.cosine_weight, self.unit_map = cosine_weight, unit_map
        self.text_encoder = self.text_prompt = None
        self.class_names = None
        if text_encoder is not None and class_names is not None:
            self.class_names = one_name_each(class_names)
            prompt = text_prompt or dict(type='vlm_dense.ZeroShotPrompt', templates=['a photo of a {}.'])
            built = TextSide.build(text_encoder, prompt, self.class_names, None, self.backbone)
            self.text_encoder, self.text_prompt, _ = built.modules
            self.text_encoder.requires_grad_(False)
            self.text_prompt.requires_grad_(False)
        self._choose_trained(trained_groups)

    def _build_teacher(self, backbone: dict, teacher: dict | None) -> BlockTower:
        if teacher is None:
            if backbone.get('pretrained') is None:
                print_log(
                    f'{type(self).__name__}: backbone.pretrained is None, so that the teacher, a copy of the backbone, '
                    'has random weights and nothing to teach. Name the weights to begin with.',
                    logger='current',
                    level=logging.WARNING,
                )
            built = copy.deepcopy(self.backbone)
        else:
            own = {key: value for key, value in backbone.items() if key not in ('dense_attention', 'frozen_stages')}
            built = _tower({**own, **teacher}, f'{type(self).__name__}: teacher')
        if built.embed_dim != self.backbone.embed_dim:
            raise ConfigError(
                f'{type(self).__name__}: the teacher gives embeddings of {built.embed_dim} numbers, the backbone of '
                f'{self.backbone.embed_dim}. Choose a teacher with the same joint space.'
            )
        built.frozen, built.with_cp, built.dense_attention = True, False, None
        return built.requires_grad_(False).eval()

    def _choose_trained(self, groups: int | None) -> None:
        """Freeze all but the chosen groups, and what the map does not read: nothing is left without gradient."""
        tower, depth = self.backbone, len(self.backbone.blocks)
        stem = []
        if isinstance(tower, CLIPViT):
            stem = [[tower.positional_embedding], [tower.conv1, tower.class_embedding, tower.ln_pre]]
        groups = depth if groups is None else groups
        if not 1 <= groups <= depth + len(stem):
            raise ConfigError(
                f'{type(self).__name__}: trained_groups must lie in 1..{depth + len(stem)} for a '
                f'{type(tower).__name__} of {depth} blocks, found {groups}.'
            )
        tower.requires_grad_(False)
        for block in list(tower.blocks)[max(0, depth - groups) :]:
            block.requires_grad_(True)
        for parts in stem[: max(0, groups - depth)]:
            for part in parts:
                part.requires_grad_(True)
        side = 2 * tower.patch_size
        trained = [p for p in tower.parameters() if p.requires_grad]
        was_training = tower.training
        tower.eval()
        with torch.enable_grad():
            found = tower.encode(next(tower.parameters()).new_zeros(1, 3, side, side), ('value',))
            gradients = torch.autograd.grad(self._read(found), trained, allow_unused=True)
        tower.train(was_training)
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)

    def _read(self, found: ImageFeatures) -> Tensor:
        """A number that depends on all that the losses read of the backbone's features."""
        return found.value.sum()

    def train(self, mode: bool = True) -> CLIPSelf:
        """Switch the mode; teacher and text side stay in eval mode."""
        super().train(mode)
        for part in (self.teacher, self.text_encoder, self.text_prompt):
            if part is not None:
                part.eval()
        return self

    @property
    def text_side(self) -> TextSide:
        """Text tower and prompt, for tests."""
        return TextSide(self.text_encoder, self.text_prompt)

    # --- features -------------------------------------------------------------------------------------------------

    def student_features(self, images: Tensor) -> ImageFeatures:
        """Features of images (B, 3, H, W): ``value`` is the map, of unit length at each position if ``unit_map``.

        Raises:
            DataError: sides that are no multiples of the patch, so that the map covers more or less than the image.
        """
        p = self.backbone.patch_size
        if images.shape[2] % p or images.shape[3] % p:
            raise DataError(
                f'{type(self).__name__}: images have {images.shape[3]} x {images.shape[2]} px, which is no multiple of '
                f'the patch, {p} px. Set image_size of vlm_dense.PackRegions to one.'
            )
        found = self.backbone.encode(images, ('value',))
        value = found.value.float()
        found.value = F.normalize(value, dim=1) if self.unit_map else value
        return found

    @torch.no_grad()
    def teacher_embeddings(self, crops: Tensor) -> Tensor:
        """The teacher's embeddings (N, D) of crops (N, 3, S, S), not normalised."""
        return self.teacher.encode(crops, ('global',)).global_.float()

    # --- the runner's modes ---------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        """As mmengine's models: ``'tensor'`` gives the map (B, D, h, w), others see :meth:`loss`, :meth:`predict`."""
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples)
        return self.student_features(inputs).value

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """``loss_cosine`` of images (B, 3, H, W) and samples with ``boxes`` (n, 4) and ``crops`` (n, 3, S, S)."""
        found = self.student_features(inputs)
        return dict(loss_cosine=self.cosine_weight * self.distance(found.value, inputs, data_samples))

    def distance(self, dense: Tensor, inputs: Tensor, data_samples: list) -> Tensor:
        """1 - mean cosine of regions of the map and crops, over all regions of the batch."""
        if not all('crops' in sample for sample in data_samples or [BaseDataElement()]):
            raise DataError(
                f'{type(self).__name__}: the samples have no regions. End the pipeline of the training with '
                "dict(type='vlm_dense.GridBoxes') or dict(type='vlm_dense.ProposalBoxes'), and "
                "dict(type='vlm_dense.PackRegions', ...)."
            )
        boxes = [sample.boxes for sample in data_samples]
        if not sum(len(own) for own in boxes):
            return dense.sum() * 0
        student = box_features(dense, boxes, tuple(inputs.shape[2:]))
        teacher = self.teacher_embeddings(torch.cat([sample.crops for sample in data_samples]))
        return 1 - F.cosine_similarity(student, teacher, dim=-1).mean()

    def predict(self, inputs: Tensor, data_samples: list) -> list:
        """Add ``box_scores`` (n, K), and ``mask_scores`` where there are ``masks``: cosines of regions and classes.

        Raises:
            ConfigError: the model has no class names.
        """
        if self.text_encoder is None:
            raise ConfigError(
                f'{type(self).__name__} has no text side to name regions with: give text_encoder and class_names, or '
                'leave out val_dataloader and test_dataloader.'
            )
        dense = self.student_features(inputs).value
        boxes = [sample.boxes for sample in data_samples]
        regions = dict(box_scores=box_features(dense, boxes, tuple(inputs.shape[2:])))
        if all('masks' in sample for sample in data_samples):
            regions['mask_scores'] = mask_features(dense, [sample.masks for sample in data_samples])
        for name, features in regions.items():
            scores = self.text_side.scores(features.T[None, :, None], self.text_side.class_embeddings())
            scores = self.text_side.combine(scores)[0, :, 0].T
            for sample, own in zip(data_samples, scores.split([len(own) for own in boxes]), strict=True):
                sample.set_field(own, name)
        return data_samples


def _tower(cfg: dict, owner: str) -> BlockTower:
    """A tower of blocks with its projection.

    Raises:
        ConfigError: another backbone, or a prompt in it.
    """
    kind = registered(MODELS, cfg['type'])
    built = MODELS.build({'head': True, **cfg}) if issubclass(kind, (BlockTower, CLIPTower)) else None
    if not isinstance(built, BlockTower):
        raise ConfigError(
            f"{owner}: the backbone must be a ViT, 'vlm_dense.CLIPViT' or 'vlm_dense.CLIPTimmViT', found "
            f"{kind.__name__ if built is None else type(built).__name__}. Choose an arch such as 'ViT-B-16' or "
            "'EVA02-B-16'."
        )
    if built.image_prompt is not None:
        raise ConfigError(f'{owner}: the blocks themselves are trained here; leave image_prompt out of the backbone.')
    return built
