"""Trident: features of windows are spliced into one map, and SAM's correlation aggregates them over the whole image.

Windows give CLIP resolution, but each of them sees a part of the image only. Trident makes ProxyCLIP's features window
by window, splices them into one map, and lets all places exchange them, weighted by the last attention of SAM's image
encoder and restricted to places with like SAM values. Nothing is trained, and SAM's mask decoder may redraw each
region.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import cv2
import mmcv
import numpy as np
import timm
import torch
import torch.nn.functional as F
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image
from timm.layers import resample_abs_pos_embed_nhwc
from timm.models.vision_transformer_sam import get_rel_pos
from torch import Tensor, nn

from vlm_dense.clip.last_blocks import DenseTokens, LastBlocks
from vlm_dense.contract.dense_attention import DenseAttention
from vlm_dense.errors import ConfigError, DataError, MissingLibraryError, WeightsNotFoundError
from vlm_dense.libraries import how_to_install
from vlm_dense.methods.dense.affinity import CLIP_MEAN, CLIP_STD, attention, cosines
from vlm_dense.methods.dense.proxyclip import ProxyCLIPAttention
from vlm_dense.methods.maskclip import MaskCLIP
from vlm_dense.methods.maskclip.head import ClassNames
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.steps import PlaneStep
from vlm_dense.segmentation.window_maps import WindowMaps

PAPER = dict(
    name='Trident',
    title=('Harnessing Vision Foundation Models for High-Performance, Training-Free Open Vocabulary Segmentation'),
    venue='ICCV 2025',
    link='https://arxiv.org/abs/2411.09219',
    code='https://github.com/YuHengsss/Trident',
    licence='Apache-2.0',
    idea=(
        "ProxyCLIP's features of all windows are spliced into one map of the image. The last attention of SAM's image "
        'encoder aggregates it on its own grid, among places with like values. The mask decoder of SAM may redraw the '
        'regions.'
    ),
    notes="""
`model.refinement=dict(type='vlm_dense.SAMRefinement', decoder=dict(type='vlm_dense.SAMDecoder'))` is the official
`--sam_refine`, with SAM of the library transformers (extra `hf`). The figures by set are published as images only; the
mean of eight sets is 48.6 mIoU with ViT-H/14 and refinement.
""",
)

SAM_SIDE = 1024
SAM_MEAN, SAM_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_MASK_SIDE = 256
_LARGEST, _WHERE_NEGATIVE = 0.9, 0.6
"""Bounds of the threshold of similarity: its most, and what a negative one becomes."""


def longest_to(size: Sequence[int], side: int) -> tuple[int, int]:
    """(H, W) with the longest side of ``size`` scaled to ``side``, rounded as SAM does it."""
    scale = side / max(size)
    return int(size[0] * scale + 0.5), int(size[1] * scale + 0.5)


def bilinear(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (n, h, w) at another size."""
    return F.interpolate(maps[None], tuple(size), mode='bilinear', align_corners=False)[0]


@MODELS.register_module()
class TridentAttention(ProxyCLIPAttention):
    """ProxyCLIP's features in front of the last norm, of all windows of an image at once.

    The mean of the similarities runs over all windows of the batch. "Harnessing Vision Foundation Models for
    High-Performance, Training-Free Open Vocabulary Segmentation", ICCV 2025, section 3.

    Args:
        proxy, beta, gamma, mean, std: Of :class:`~vlm_dense.methods.dense.ProxyCLIPAttention`.
    """

    def forward(self, last: LastBlocks) -> DenseTokens:
        """Features (B, N, C), not projected, in the grid of the proxy."""
        found = super().forward(last)
        return DenseTokens(None, found.grid, features=found.tokens)

    def weights(self, features: Tensor) -> Iterator[Tensor]:
        """As in :class:`~vlm_dense.methods.dense.ProxyCLIPAttention`, with one mean for all windows."""
        total = sum(cosines(own).mean(dim=(1, 2), keepdim=True) for own in features.split(1)) / len(features)
        for own in features.split(1):
            yield attention(cosines(own), self.beta, self.gamma, total)


class Correlation(NamedTuple):
    """Last attention of SAM's image encoder inside the image.

    Attributes:
        weights: (H, N, N) attention weights, rows not divided by their sums.
        values: (H, N, d).
        grid: (h, w), N = h * w.
    """

    weights: Tensor
    values: Tensor
    grid: tuple[int, int]


@MODELS.register_module()
class SAMEncoder(nn.Module):
    """SAM's image encoder, for the attention weights and values of its last block.

    Args:
        model: Name of a ``samvit_*`` of timm, as ``'samvit_base_patch16.sa1b'``, with 1024 px a side.
        pretrained: True downloads timm's weights; a path loads a file; False leaves them random, for weights that come
            with a checkpoint of the whole model.
        **kwargs: Of ``timm.create_model``.

    Raises:
        ConfigError: another model, or one with windows in the last block.
    """

    def __init__(self, model: str = 'samvit_base_patch16.sa1b', pretrained: bool | str = False, **kwargs: Any):
        super().__init__()
        options = dict(norm_layer=partial(nn.LayerNorm, eps=1e-6)) | kwargs  # timm's own is 1e-5
        path = pretrained if isinstance(pretrained, str) else ''
        self.model = timm.create_model(model, pretrained is True, checkpoint_path=path, num_classes=0, **options)
        blocks = getattr(self.model, 'blocks', [])
        if not len(blocks) or not hasattr(blocks[-1].attn, 'rel_pos_h') or blocks[-1].window_size:
            raise ConfigError(
                f'SAMEncoder: {model} is no image encoder of SAM with relative positions and a last block that sees '
                "the whole image. Choose a samvit_* of timm, as 'samvit_base_patch16.sa1b'."
            )
        self.patch_size = self.model.patch_embed.patch_size[0]
        statistics = torch.tensor([SAM_MEAN, SAM_STD])[:, :, None, None]
        self.register_buffer('statistics', statistics, persistent=False)

    def prepare(self, image: np.ndarray) -> tuple[Tensor, tuple[int, int]]:
        """Input (3, 1024, 1024), normalised, of an image (H, W, 3), RGB, uint8, and the size of the image in it."""
        size = longest_to(image.shape[:2], SAM_SIDE)
        resized = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        pixels = torch.from_numpy(resized).to(self.statistics.device).permute(2, 0, 1).float()
        pixels = (pixels - self.statistics[0]) / self.statistics[1]
        return F.pad(pixels, (0, SAM_SIDE - size[1], 0, SAM_SIDE - size[0])), size

    def forward(self, image: np.ndarray) -> Correlation:
        """Attention weights and values of an image (H, W, 3), RGB, uint8, on the places that it fills."""
        pixels, size = self.prepare(image)
        vit, height, width = self.model, size[0] // self.patch_size, size[1] // self.patch_size
        x = vit.patch_embed(pixels[None])
        if vit.pos_embed is not None:
            x = x + resample_abs_pos_embed_nhwc(vit.pos_embed, x.shape[1:3])
        block = vit.blocks[-1]
        x = block.norm1(vit.blocks[:-1](vit.norm_pre(x)))[0]
        rows, columns = x.shape[:2]
        heads, attn = block.attn.num_heads, block.attn
        q, k, v = attn.qkv(x).unflatten(-1, (3, heads, -1)).permute(2, 3, 0, 1, 4)  # each (H, rows, columns, d)
        q = q[:, :height, :width]
        vertical = torch.einsum('nhwc,hkc->nhwk', q, get_rel_pos(rows, rows, attn.rel_pos_h)[:height])
        across = torch.einsum('nhwc,wkc->nhwk', q, get_rel_pos(columns, columns, attn.rel_pos_w)[:width])
        weights = []
        for head in range(heads):  # one by one: a head has (h w) x 4096 scores
            scores = (q[head] * attn.scale).flatten(0, 1) @ k[head].flatten(0, 1).T
            bias = vertical[head][..., None] + across[head][..., None, :]
            found = (scores + bias.flatten(2).flatten(0, 1)).softmax(dim=-1)
            weights.append(found.unflatten(1, (rows, columns))[:, :height, :width].flatten(1))
        return Correlation(torch.stack(weights), v[:, :height, :width].flatten(1, 2), (height, width))


class _LastAttention(DenseAttention):
    """Attention weights and values of the last block between patches, (B, N, H N + C)."""

    def forward(self, last: LastBlocks) -> DenseTokens:
        block = last.blocks[-1]
        q, k, v = (x[:, :, last.patches] for x in block.qkv(last.tokens))
        parts = block.weights(q, k), v
        return DenseTokens(None, last.grid, features=torch.cat([x.transpose(1, 2).flatten(2) for x in parts], dim=-1))


@MODELS.register_module()
class TowerCorrelation(nn.Module):
    """The last attention of a CLIP instead of SAM's, for images on which there is no SAM, as drawn ones.

    Args:
        arch, pretrained: Of the ViT, see :func:`vlm_dense.clip.load_clip`.
        side: Longest side in px of the image that it sees.
    """

    def __init__(self, arch: str, pretrained: str | None = None, side: int = 192):
        super().__init__()
        self.tower = MODELS.build(dict(type='vlm_dense.CLIPViT', arch=arch, pretrained=pretrained, head=True))
        self.tower.dense_attention = _LastAttention()
        self.side, self.heads = side, self.tower.blocks[-1].num_heads
        statistics = 255 * torch.tensor([CLIP_MEAN, CLIP_STD])[:, :, None, None]
        self.register_buffer('statistics', statistics, persistent=False)

    def forward(self, image: np.ndarray) -> Correlation:
        """As :meth:`SAMEncoder.forward`."""
        pixels = torch.from_numpy(image).to(self.statistics.device).permute(2, 0, 1).float()
        pixels = (bilinear(pixels, longest_to(image.shape[:2], self.side)) - self.statistics[0]) / self.statistics[1]
        found = self.tower.encode(pixels[None], ('value',)).value[0]
        grid = tuple(found.shape[1:])
        weights, values = found.flatten(1).T.split([self.heads * grid[0] * grid[1], self.tower.width], dim=1)
        weights, values = (x.unflatten(1, (self.heads, -1)).transpose(0, 1) for x in (weights, values))
        return Correlation(weights, values, grid)


@MODELS.register_module()
class Trident(MaskCLIP):
    """MaskCLIP on features of all windows, spliced and aggregated by SAM's attention.

    "Harnessing Vision Foundation Models for High-Performance, Training-Free Open Vocabulary Segmentation", ICCV 2025,
    section 3. SAM sees the image file itself (``img_path`` of the metainfo), or the image as the network gets it where
    there is no file. Images are normalised as CLIP's.

    Args:
        backbone: A ViT with ``dense_attention=dict(type='vlm_dense.TridentAttention', ...)``.
        sam: Config of :class:`SAMEncoder`, or of another source of a :class:`Correlation`.
        cos_fac: Places exchange features if the cosine of their SAM values exceeds this multiple of the mean of a row.
        refine_neg_cos: Leave a negative threshold as it is; False: it becomes 0.6.
        halves: Cut images into a left and a right half for SAM, as for Cityscapes.
        refinement: Config of :class:`SAMRefinement`; default: none.
        class_names, **kwargs: Of :class:`~vlm_dense.methods.maskclip.MaskCLIP`. ``test_cfg`` names the windows, which
            must be squares and are no larger than the image, which is enlarged for them.

    Raises:
        ConfigError: another attention, windows or steps that do not go with it.
    """

    by_windows = False

    def __init__(
        self,
        backbone: dict,
        sam: dict,
        class_names: ClassNames | None = None,
        cos_fac: float = 1.2,
        refine_neg_cos: bool = True,
        halves: bool = False,
        refinement: dict | None = None,
        **kwargs: Any,
    ):
        super().__init__(backbone, class_names, **kwargs)
        part = getattr(self.backbone, 'dense_attention', None)
        if not isinstance(part, TridentAttention):
            raise ConfigError(
                "Trident: expected backbone=dict(dense_attention=dict(type='vlm_dense.TridentAttention', ...)), found "
                f'{self._tower_name}.'
            )
        if self.variants or self.postprocess.has(PlaneStep) or len(self.decode_head.refinements) > 1:
            raise ConfigError(
                'Trident: variants, refinements other than Aliases, and steps of postprocess on the pixels of the '
                'image are not supported. Leave them out; SAM refines its labels.'
            )
        crop, p = (self.test_cfg or {}).get('crop_size', (0, 1)), self.backbone.patch_size
        stride = (self.test_cfg or {}).get('stride', (1, 1))
        if crop[0] != crop[1] or crop[0] % p or any(step % p for step in stride):
            raise ConfigError(
                f"Trident: expected test_cfg=dict(mode='slide', ...) with a square crop_size and a stride that are "
                f'multiples of the patch, {p} px, found {self.test_cfg}.'
            )
        self.sam = MODELS.build(sam).eval().requires_grad_(False)
        self.cos_fac, self.refine_neg_cos, self.halves = cos_fac, refine_neg_cos, halves
        if refinement is not None and not hasattr(self.sam, 'prepare'):
            raise ConfigError(f'Trident: refinement needs sam=dict(type="vlm_dense.SAMEncoder"), found {sam["type"]}.')
        self.refinement = None if refinement is None else MODELS.build(refinement)

    def train(self, mode: bool = True) -> Trident:
        """Switch the mode; SAM stays in eval mode."""
        super().train(mode)
        if hasattr(self, 'sam'):
            self.sam.eval()
        return self

    # --- from images to maps --------------------------------------------------------------------------------------

    def window_maps(
        self,
        images: list[Tensor],
        forward: Callable[[Tensor], Tensor] | None = None,
        metas: Sequence[dict] | None = None,
    ) -> Iterator[tuple[int, WindowMaps]]:
        """Yield the index and the cosines of the names of each image (3, H, W), as one window, on SAM's grid."""
        for i, image in enumerate(images):
            maps = WindowMaps(self.align_corners, whole=True)
            raw = self.raw(image, metas[i] if metas else {})
            maps.add((0, image.shape[1], 0, image.shape[2]), self.name_maps(self.canvas(image), raw))
            yield i, maps

    def raw(self, image: Tensor, meta: dict) -> np.ndarray:
        """The image (H, W, 3), RGB, uint8, at its original size up to multiples of a patch.

        Raises:
            DataError: it was flipped, or padded by the data preprocessor.
        """
        if meta.get('flip') or 'img_padding_size' in meta or 'padding_size' in meta:
            raise DataError('Trident: SAM sees the image file, so images cannot be flipped or padded. Leave both out.')
        if os.path.isfile(meta.get('img_path') or ''):  # drawn images have a name and no file
            found = mmcv.imread(meta['img_path'], channel_order='rgb')
        else:
            mean, std = (torch.tensor(x, device=image.device)[:, None, None] for x in (CLIP_MEAN, CLIP_STD))
            size = tuple(meta.get('ori_shape', image.shape[1:])[:2])
            colours = bilinear(255 * (image.float() * std + mean), size)
            found = colours.round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        return self.to_patches(found)

    def to_patches(self, image: np.ndarray) -> np.ndarray:
        """An image (H, W, 3) with sides up to multiples of a patch."""
        p = self.backbone.patch_size
        height, width = (math.ceil(side / p) * p for side in image.shape[:2])
        if (height, width) == image.shape[:2]:
            return np.ascontiguousarray(image)
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

    def canvas(self, image: Tensor) -> Tensor:
        """Features (C, r h, r w) of an image (3, H, W), spliced from those of its windows."""
        p, crop = self.backbone.patch_size, self.test_cfg['crop_size'][0]
        image = self.enlarged(image)
        height, width = image.shape[1] // p, image.shape[2] // p
        boxes = self._windows(*image.shape[1:])
        crops = torch.stack([image[:, y1:y2, x1:x2] for y1, y2, x1, x2 in boxes])
        features = self.extract_feat(crops).value
        patches = crop // p
        ratio = round(features.shape[2] / patches)
        side = patches * ratio
        if features.shape[2] != side:
            features = F.interpolate(features, (side, side), mode='bilinear', align_corners=False)
        total = features.new_zeros((features.shape[1], height * ratio, width * ratio))
        counts = total.new_zeros((1, *total.shape[1:]))
        for (y1, _, x1, _), own in zip(boxes, features, strict=True):
            y, x = y1 // p * ratio, x1 // p * ratio
            total[:, y : y + side, x : x + side] += own
            counts[:, y : y + side, x : x + side] += 1
        return total / counts

    def enlarged(self, image: Tensor) -> Tensor:
        """An image (3, H, W) with sides that are multiples of a patch and no smaller than a window."""
        p, crop = self.backbone.patch_size, self.test_cfg['crop_size'][0]
        height, width = image.shape[1:]
        size = height, width
        if height % p or width % p:
            longest = max(height, width)
            goal = math.ceil(longest / p) * p
            size = tuple(math.ceil(int(side * goal / longest) / p) * p for side in (height, width))
        size = tuple(max(side, crop) for side in size)
        return image if size == (height, width) else bilinear(image, size)

    def name_maps(self, canvas: Tensor, raw: np.ndarray) -> Tensor:
        """Cosines (N, h, w) of the names on SAM's grid.

        Args:
            canvas: (C, H, W) features of the whole image.
            raw: (H, W, 3), RGB, uint8, of :meth:`raw`.
        """
        parts = [(canvas, raw)]
        if self.halves:
            column, middle = canvas.shape[2] // 2, raw.shape[1] // 2
            parts = [(canvas[:, :, :column], raw[:, :middle]), (canvas[:, :, column:], raw[:, middle:])]
        text, found = self.decode_head.embed_classes(), []
        for features, pixels in parts:
            correlation = self.sam(np.ascontiguousarray(pixels))
            tokens = self.correlated(features, correlation)
            value = self.backbone.project(tokens).T.unflatten(1, correlation.grid)
            found.append(self.decode_head.name_scores(value[None], text)[0])
        return torch.cat(found, dim=2)

    def correlated(self, canvas: Tensor, correlation: Correlation) -> Tensor:
        """Tokens (N, C) of features (C, H, W), aggregated on SAM's grid."""
        features = bilinear(canvas, correlation.grid).flatten(1).T
        return self.exchange(correlation).to(features.dtype) @ features

    def exchange(self, correlation: Correlation) -> Tensor:
        """W (N, N): SAM's attention between places with like values, mean over heads, rows divided by their sums."""
        threshold = self.threshold(correlation)[:, None]
        total = 0
        for weights, values in zip(correlation.weights, correlation.values, strict=True):
            total = total + weights.where(cosines(values[None])[0] > threshold, 0)
        total = total / len(correlation.weights)
        return total / total.sum(dim=1, keepdim=True)

    def threshold(self, correlation: Correlation) -> Tensor:
        """t (N,): a multiple of the mean cosine of a place and all others, over heads, within bounds."""
        mean = sum(cosines(values[None])[0].mean(dim=1) for values in correlation.values) / len(correlation.values)
        found = self.cos_fac * mean
        if not self.refine_neg_cos:
            found = found.masked_fill(found < 0, _WHERE_NEGATIVE)
        return found.clamp(max=_LARGEST)

    # --- from maps to labels --------------------------------------------------------------------------------------

    def decide(self, sample: SegDataSample, maps: WindowMaps, image: Tensor) -> None:
        """As in :class:`MaskCLIP`; the labels are redrawn by SAM if there is a ``refinement``."""
        if self.refinement is None:
            return super().decide(sample, maps, image)
        found = self.postprocess.scores(maps, image, sample.metainfo, self.class_maps)
        raw = self.raw(image, sample.metainfo)
        pixels = self.sam.prepare(raw)[0]
        scores, labels = self.refinement(found.values[0], found.decided[0], pixels, raw.shape[:2])
        sample.set_data(dict(seg_logits=PixelData(data=scores), pred_sem_seg=PixelData(data=labels[None])))
        return None

    def strip_maps(self, inputs: Tensor, data_samples: list) -> list:
        """Not available: SAM sees the image file as it is.

        Raises:
            ConfigError: always.
        """
        raise ConfigError('Trident: SAM sees images as they are. Leave the test-time augmentation out.')

    def predict_lists(self, inputs: Tensor, data_samples: list, class_lists: Sequence) -> list:
        """Not available: see :meth:`set_class_names` for other classes.

        Raises:
            ConfigError: always.
        """
        raise ConfigError('Trident: several lists of classes at once are not supported; call set_class_names instead.')

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Not available.

        Raises:
            ConfigError: always.
        """
        raise ConfigError('Trident is not trained: it looks at whole images. Train MaskCLIP instead.')


class Prompts(NamedTuple):
    """What SAM's decoder is asked for one class.

    Attributes:
        points: (n, 2) x and y of the best pixel of each region, in px of SAM's input.
        boxes: (n, 4) x1, y1, x2, y2 of the regions, likewise.
        mask: (256, 256) scores of the class as a mask prompt.
        regions: (n, h, w) bool, the regions at half the size of the image.
        small: (n, 4) the boxes at half the size of the image.
    """

    points: Tensor
    boxes: Tensor
    mask: Tensor
    regions: Tensor
    small: Tensor


@MODELS.register_module()
class SAMRefinement:
    """Regions of the labels, redrawn by SAM's mask decoder. Trident, section 3.4.

    Args:
        decoder: Config of :class:`SAMDecoder`, or of another function of the same kind.
        coarse_thresh: Pixels with no score above this belong to no region.
        minimal_area: Least pixels of a region, at half the size of the image.
        sam_iou_thresh: Masks that SAM expects to overlap less with the region are dropped.
        sam_mask_coff: Factor of the scores in the mask prompt.
    """

    def __init__(
        self,
        decoder: dict,
        coarse_thresh: float = 0.2,
        minimal_area: int = 225,
        sam_iou_thresh: float = 0.9,
        sam_mask_coff: float = 0.005,
    ):
        self.decoder = MODELS.build(decoder) if isinstance(decoder, dict) else decoder
        self.coarse_thresh, self.minimal_area = coarse_thresh, minimal_area
        self.sam_iou_thresh, self.sam_mask_coff = sam_iou_thresh, sam_mask_coff

    def __call__(self, scores: Tensor, labels: Tensor, pixels: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Redraw the labels of an image.

        Args:
            scores: (K, H, W) probabilities.
            labels: (H, W), int64.
            pixels: (3, 1024, 1024) input of SAM.
            size: (h, w) of the image that SAM's input was made of.

        Returns:
            Scores (K, H, W) of the redrawn regions and labels (H, W); unchanged if no region was kept.
        """
        decode = self.decoder(pixels)
        refined, failed, kept = torch.zeros_like(scores), labels.new_zeros(labels.shape, dtype=torch.bool), False
        for k, prompts in self.prompts(scores, labels):
            low, quality = decode(prompts)
            good = quality.flatten() > self.sam_iou_thresh
            bad = prompts.regions[~good].any(dim=0)
            failed |= F.interpolate(bad[None, None].float(), labels.shape, mode='nearest')[0, 0].bool()
            if not good.any():
                continue
            kept = True
            logits = self.enlarged(low[good][:, 0], size, labels.shape)
            best = (logits.sigmoid() * scores[k]).amax(dim=0)
            refined[k] = best.where((logits > 0).any(dim=0), 0)
        if not kept:
            return scores, labels
        labels = refined.argmax(dim=0).where(refined.amax(dim=0) > 0, labels)
        return torch.maximum(refined, failed * scores), labels

    def prompts(self, scores: Tensor, labels: Tensor) -> Iterator[tuple[int, Prompts]]:
        """The classes with regions, and the prompts of each."""
        height, width = (side // 2 for side in labels.shape)
        small = bilinear(scores, (height, width))
        half = F.interpolate(labels[None, None].float(), (height, width), mode='nearest')[0, 0].long()
        half = half.masked_fill(small.amax(dim=0) < self.coarse_thresh, -1)
        new = longest_to((height, width), SAM_SIDE)
        factors = scores.new_tensor([new[1] / width, new[0] / height])
        side = longest_to(labels.shape, _MASK_SIDE)
        for k in range(len(scores)):
            if small[k].amax() < self.coarse_thresh:
                continue
            regions = regions_of(half == k, self.minimal_area)
            if not len(regions):
                continue
            place = small[k].where(regions, 0).flatten(1).argmax(dim=1)
            points = torch.stack([place % width, place // width], dim=1)
            boxes = torch.stack(
                [torch.cat([mask.nonzero().amin(0).flip(0), mask.nonzero().amax(0).flip(0)]) for mask in regions]
            )
            mask = F.pad(bilinear(small[k : k + 1], side)[0], (0, _MASK_SIDE - side[1], 0, _MASK_SIDE - side[0]))
            mask = (self.sam_mask_coff * mask).where(mask > self.coarse_thresh, 0)
            yield k, Prompts(points * factors, boxes * factors.repeat(2), mask, regions, boxes)

    @staticmethod
    def enlarged(low: Tensor, size: Sequence[int], original: Sequence[int]) -> Tensor:
        """Logits (n, 256, 256) at the size of the image, by way of SAM's input."""
        inner = longest_to(size, SAM_SIDE)
        maps = bilinear(bilinear(low, (SAM_SIDE, SAM_SIDE))[:, : inner[0], : inner[1]], size)
        return maps if tuple(size) == tuple(original) else bilinear(maps, original)


def regions_of(mask: Tensor, least: int) -> Tensor:
    """Connected regions (n, H, W) of a mask (H, W), corners included, in the order of their first pixel.

    Args:
        mask: bool.
        least: Pixels that a region must have.
    """
    _, parts = cv2.connectedComponents(mask.cpu().numpy().astype(np.uint8), connectivity=8)
    values, first, counts = np.unique(parts, return_index=True, return_counts=True)
    order = [v for _, v, n in sorted(zip(first, values, counts, strict=True)) if v and n >= least]
    found = torch.from_numpy(parts).to(mask.device)
    return torch.stack([found == v for v in order]) if order else mask.new_zeros((0, *mask.shape))


@MODELS.register_module()
class SAMDecoder:
    """SAM's prompt encoder and mask decoder of the library transformers.

    Args:
        model: Name or folder of a ``SamModel``.

    Raises:
        MissingLibraryError: transformers is not installed.
        WeightsNotFoundError: the model is not on this machine and could not be downloaded.
    """

    def __init__(self, model: str = 'facebook/sam-vit-base'):
        try:
            from transformers import SamModel
        except ImportError as error:
            raise MissingLibraryError(
                f'SAMDecoder needs the library transformers. {how_to_install("hf")} Or leave model.refinement out.'
            ) from error
        try:
            self.sam = SamModel.from_pretrained(model).eval().requires_grad_(False)
        except OSError as error:
            raise WeightsNotFoundError(
                f'SAM {model!r} is not on this machine and could not be downloaded ({type(error).__name__}). On a '
                f"machine with a network run 'hf download {model}', and name the folder, refinement.decoder.model."
            ) from error

    def __call__(self, pixels: Tensor) -> Callable[[Prompts], tuple[Tensor, Tensor]]:
        """A function of :class:`Prompts` to logits (n, 1, 256, 256) and expected IoU (n, 1), for one image."""
        sam = self.sam.to(pixels.device)
        with torch.no_grad():
            embedding = sam.get_image_embeddings(pixels[None])

        def decode(prompts: Prompts) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                found = sam(
                    image_embeddings=embedding,
                    input_points=prompts.points[None, :, None].float(),
                    input_labels=torch.ones(1, len(prompts.points), 1, dtype=torch.long, device=pixels.device),
                    input_boxes=prompts.boxes[None].float(),
                    input_masks=prompts.mask[None, None].float(),
                    multimask_output=False,
                )
            return found.pred_masks[0], found.iou_scores[0]

        return decode
