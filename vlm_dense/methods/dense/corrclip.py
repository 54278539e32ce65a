"""CorrCLIP: patches exchange values inside the regions of a class-agnostic segmentation only.

Plain attention mixes patches of different classes, which spoils CLIP's dense features. Given the regions of an image,
as SAM 2 or an entity segmentation finds them, CorrCLIP joins regions with like DINO features, lets a patch take values
only from its own region, weighted by DINO, adds the same for the middle blocks and a class token of each region, and
lets the pixels of each region vote on its label. Nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mmseg.structures import SegDataSample
from PIL import Image
from torch import Tensor

from vlm_dense.clip.blocks import Block
from vlm_dense.clip.last_blocks import DenseTokens, LastBlocks
from vlm_dense.contract.dense_attention import DenseAttention
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.methods.dense.affinity import IMAGENET_MEAN, IMAGENET_STD, Renormalise
from vlm_dense.methods.maskclip import MaskCLIP
from vlm_dense.methods.maskclip.head import ClassNames
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.steps import PlaneStep

PAPER = dict(
    name='CorrCLIP',
    title='CorrCLIP: Reconstructing Patch Correlations in CLIP for Open-Vocabulary Semantic Segmentation',
    venue='ICCV 2025',
    link='https://arxiv.org/abs/2411.10086',
    code='https://github.com/zdk258/CorrCLIP',
    licence='none',
    idea=(
        "Values of CLIP's last block are mixed inside the regions of a class-agnostic segmentation only, weighted by "
        "DINO's features; middle blocks and a class token for each region are added, and regions vote on their labels."
    ),
    notes="""
The regions come from files (`model.regions`, made once with SAM 2 or another segmentation of your choice) or from any
function. Published figures are those of the README with SAM 2 masks from 32 points a side. The released name lists have
synonyms and joined words which these configs do not have, so figures will differ.
""",
)

PADDING = 10000
"""Label of what a window is padded with, and of the first cluster of regions."""

_MIDDLE = {12: 5, 24: 12, 32: 28}
"""Depth of the tower -> number of middle blocks; L - 4 of others."""


@MODELS.register_module()
class CorrCLIPAttention(DenseAttention):
    """CorrCLIP's features: values mixed inside regions, of the last block and of middle ones, and tokens of regions.

    With the cosines S of the proxy's features, a pair of places is allowed if both lie in the same region, or if one of
    the two lies in none and S is above its mean; A is the softmax of S / temperature over the allowed places. Then

        F = proj(ln_post(out_proj(A v))) + spatial proj(ln_post(out_proj(A v'))) + semantic proj(ln_post(t))

    with the values v of the last block, v' of the mean output of middle blocks through the same layer, and the class
    token t of a place's region, which sees the patches of this region alone. "CorrCLIP: Reconstructing Patch
    Correlations in CLIP for Open-Vocabulary Semantic Segmentation", ICCV 2025, section 3.

    Labels of regions are integers; in each window the smallest one means "in no region".

    Args:
        proxy: Config of the frozen second backbone; its last map is taken, the sum of queries and keys in the paper
            (``feature='query_key'`` of ``vlm_dense.ProxyViT``).
        distance: Regions with features nearer than this, in cosine below the greatest, are one.
        temperature: Of the softmax.
        spatial, semantic: Weights of the second and the third term.
        middle: Number of middle blocks, which end in front of the last but one; default: the paper's for 12, 24 and 32
            blocks, and all but four of other depths.
        mean, std: Of the proxy's input, of colours between 0 and 1. The tower's images are normalised as CLIP's.
    """

    num_blocks = None
    reads_regions = True

    def __init__(
        self,
        proxy: dict,
        distance: float = 0.2,
        temperature: float = 0.25,
        spatial: float = 1.0,
        semantic: float = 0.5,
        middle: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        super().__init__()
        self.proxy = MODELS.build(proxy).eval().requires_grad_(False)
        self.distance, self.temperature = distance, temperature
        self.spatial, self.semantic = spatial, semantic
        self.middle = middle
        self.proxy_input = Renormalise(mean, std)

    def train(self, mode: bool = True) -> CorrCLIPAttention:
        """Switch the mode; the proxy stays in eval mode."""
        super().train(mode)
        self.proxy.eval()
        return self

    def forward(self, last: LastBlocks) -> DenseTokens:
        """Features, the sum of the three terms, in the grid of the proxy."""
        features = self.features(last.images)
        grid = tuple(features.shape[2:])
        places = features.flatten(2).mT
        regions = [
            self.merged(own, labels) for own, labels in zip(places, resized(last.regions, grid).flatten(1), strict=True)
        ]
        weights = torch.stack([self.weights(own, labels) for own, labels in zip(places, regions, strict=True)])
        masks = [
            _one_hot(resized(labels.unflatten(0, grid)[None], last.grid).flatten(), labels.unique())
            for labels in regions
        ]
        deep, middle, tokens = self.trunk(last, masks)
        main, spatial = (self._mixed(x, last, grid, weights) for x in (deep, middle))
        semantic = torch.stack([self._spread(t, m, last.grid, grid) for t, m in zip(tokens, masks, strict=True)])
        features = last.project(main) + self.spatial * last.project(spatial) + self.semantic * last.project(semantic)
        return DenseTokens(None, grid, features=features)

    def features(self, images: Tensor) -> Tensor:
        """The proxy's last map (B, C, I, J), of unit length at each place, float32."""
        maps = self.proxy(self.proxy_input(images))
        maps = maps[-1] if isinstance(maps, (tuple, list)) else maps
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            raise ConfigError(
                'CorrCLIPAttention: the proxy must give a map (B, C, I, J) or a list of them, found '
                f'{tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__} of '
                f'{type(self.proxy).__name__}. Choose a backbone that keeps the places.'
            )
        return F.normalize(maps.float(), dim=1)

    def clusters(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Distances (R, R) of the regions of an image but the one with the smallest label, and their clusters (R,).

        Args:
            features: (N, C), of unit length.
            labels: (N,).
        """
        masks = _one_hot(labels, labels.unique()[1:]).to(features.dtype)
        means = F.normalize(masks @ features / masks.sum(dim=1, keepdim=True), dim=1)
        similarity = means @ means.T
        distances = similarity.max() - similarity
        linked, cluster = distances <= self.distance, torch.arange(len(means), device=features.device)
        for _ in range(len(means)):  # the least member goes round each connected component
            spread = torch.where(linked, cluster[None], len(means)).amin(dim=1).minimum(cluster)
            if torch.equal(spread, cluster):
                break
            cluster = spread
        return distances, cluster.unique(return_inverse=True)[1]

    def merged(self, features: Tensor, labels: Tensor) -> Tensor:
        """Labels (N,) with those of like regions made one; two labels or one stay as they are."""
        found = labels.unique()
        if len(found) <= 2:
            return labels
        cluster = self.clusters(features, labels)[1] + PADDING
        return torch.cat([found[:1], cluster])[torch.searchsorted(found, labels)]

    def weights(self, features: Tensor, labels: Tensor) -> Tensor:
        """A (N, N) of an image, of features (N, C) of unit length and labels (N,)."""
        similarity = features @ features.T
        free = labels == labels.min()
        same = (labels[:, None] == labels[None]) & ~free[:, None]
        near = (free[:, None] | free[None]) & (similarity > similarity.mean())
        return (similarity / self.temperature).masked_fill(~(same | near), -torch.inf).softmax(dim=-1)

    def trunk(self, last: LastBlocks, masks: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Run all blocks with a copy of the class token for each region.

        Args:
            masks: Of each image (R, h * w), bool.

        Returns:
            Input of the last block and mean output of the middle blocks, (B, L, C), and the copies behind the last
            block (B, most R, C), of which an image with fewer regions uses the first.
        """
        depth, count = len(last.blocks), max(len(m) for m in masks)
        if not isinstance(last.blocks[0], Block) or last.patches.start == 0:
            raise ConfigError(
                "CorrCLIPAttention copies the class token for each region and masks the attention of open_clip's own "
                "blocks; this tower has no class token or other blocks. Choose a ViT of CLIP, such as 'ViT-B-16'."
            )
        middle = self.middle or _MIDDLE.get(depth, depth - 4)
        if not 0 < middle <= depth - 2:
            raise ConfigError(
                f'CorrCLIPAttention: {middle} middle blocks of a tower with {depth} blocks; there must be at least one '
                f'and at most {depth - 2}. Give middle=, or choose a deeper tower.'
            )
        length = last.tokens.shape[1]
        visible = last.tokens.new_zeros((len(masks), 1, count + length, count + length), dtype=torch.bool)
        visible[:, :, :, count] = True  # the class token
        visible[:, :, count:, count:] = True
        for image, regions in zip(visible[:, 0], masks, strict=True):
            image[: len(regions), count:][:, last.patches] = regions
        told = 'CorrCLIPAttention gives each region a class token; another dense attention does without'
        x = torch.cat([last.class_token(last.tokens, told).expand(-1, count, -1), last.tokens], dim=1)
        total = 0
        for i, block in enumerate(last.blocks[:-1]):
            x = block(x, attn_mask=visible)
            if depth - 2 - middle <= i < depth - 2:
                total = total + x[:, count:]
        return x[:, count:], total / middle, last.blocks[-1](x, attn_mask=visible)[:, :count]

    @staticmethod
    def _mixed(tokens: Tensor, last: LastBlocks, grid: tuple[int, int], weights: Tensor) -> Tensor:
        """Values of tokens (B, L, C) mixed by weights (B, N, N) in another grid, through the output projection."""

        def path(block: Block, x: Tensor) -> Tensor:
            value = block.qkv(x)[2].transpose(1, 2).flatten(2)[:, last.patches]  # of all heads
            maps = F.interpolate(value.mT.unflatten(2, last.grid), grid, mode='bilinear', align_corners=False)
            mixed = weights.to(value.dtype) @ maps.flatten(2).mT
            return block.output(mixed.unflatten(-1, (block.num_heads, -1)).transpose(1, 2))

        return last.blocks[-1](tokens, path=path)

    @staticmethod
    def _spread(tokens: Tensor, masks: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
        """Tokens (R, C) at the places (N, C) of their regions (R, h * w), in another grid."""
        places = resized(masks.unflatten(1, grid), target).flatten(1)
        return places.T.to(tokens.dtype) @ tokens[: len(masks)]


def resized(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (B, H, W) at another size, those of the nearest pixels above and to the left, as torch's ``nearest``."""
    return F.interpolate(labels[:, None].double(), size, mode='nearest')[:, 0].to(labels.dtype)


def _one_hot(labels: Tensor, values: Tensor) -> Tensor:
    """Which labels (N,) are each of the values that some are: (R, N), bool."""
    masks = labels[None] == values[:, None]
    return masks[masks.any(dim=1)]


@MODELS.register_module()
class CorrCLIP(MaskCLIP):
    """MaskCLIP with features that keep to the regions of a class-agnostic segmentation, which vote on their labels.

    Windows are cut from the image and its regions alike; what pads a window is a region of its own.

    Args:
        backbone: A ViT with ``dense_attention=dict(type='vlm_dense.CorrCLIPAttention', ...)``.
        regions: Source of the regions: ``dict(type='vlm_dense.RegionFiles', folder=...)``, or the config of another
            registered function of an image and its metainfo, as :class:`ColourRegions`.
        class_names, **kwargs: Of :class:`~vlm_dense.methods.maskclip.MaskCLIP`; no steps on the pixels of the image
            (PAMR) and no ``variants``.

    Raises:
        ConfigError: another attention, or steps that do not go with it.
    """

    by_windows = False

    def __init__(self, backbone: dict, regions: dict, class_names: ClassNames | None = None, **kwargs: Any):
        super().__init__(backbone, class_names, **kwargs)
        if not getattr(getattr(self.backbone, 'dense_attention', None), 'reads_regions', False):
            raise ConfigError(
                "CorrCLIP: expected backbone=dict(dense_attention=dict(type='vlm_dense.CorrCLIPAttention', ...)), "
                f'found {self._tower_name}, which does not look at regions.'
            )
        if self.variants or self.postprocess.has(PlaneStep):
            raise ConfigError(
                'CorrCLIP: variants, and steps of postprocess on the pixels of the image, are not supported. Leave '
                'them out; the regions of the image refine its labels.'
            )
        self.regions = MODELS.build(regions)

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """As in :class:`MaskCLIP`; of each region of an image, the most frequent label.

        Raises:
            DataError: regions that are absent or of another size than the image.
        """
        samples = [SegDataSample() for _ in inputs] if data_samples is None else data_samples
        maps = [self.label_map(image, sample.metainfo) for image, sample in zip(inputs, samples, strict=True)]
        samples = super().predict(self.joined(inputs, maps, samples), samples)
        for labels, sample in zip(maps, samples, strict=True):
            sample.pred_sem_seg.data = vote(sample.pred_sem_seg.data, labels)
        return samples

    def joined(self, inputs: Tensor, maps: Sequence[Tensor], samples: Sequence[SegDataSample]) -> Tensor:
        """Images with their regions, of :meth:`label_map`, as a fourth channel, from 1; 0 is what pads a window."""
        channel = inputs.new_zeros((len(inputs), 1, *inputs.shape[2:]), dtype=torch.float32)
        for own, labels, sample in zip(channel, maps, samples, strict=True):
            height, width = self._size(sample.metainfo, inputs)
            own[0, :height, :width] = resized(labels[None], (height, width))[0] + 1
        return torch.cat([inputs.float(), channel], dim=1)

    def label_map(self, image: Tensor, meta: dict) -> Tensor:
        """Labels (H, W) of the regions of an image at its original size, int64, in steps of one from 0.

        Args:
            image: (3, H, W), padded, as the network gets it.
            meta: Metainfo of its sample.
        """
        if meta.get('flip'):
            raise DataError('CorrCLIP: regions are those of images as they are, found a flipped one. Leave flips out.')
        size = self._size(meta, image[None])
        colours = self.backbone.dense_attention.proxy_input.colours(image[:, : size[0], : size[1]])
        labels = torch.as_tensor(self.regions(colours, meta), device=image.device)
        size = tuple(meta.get('ori_shape', size)[:2])
        if tuple(labels.shape) != size or labels.is_floating_point():
            raise DataError(
                f'CorrCLIP: expected regions as a map of integers of {size[0]} x {size[1]} px, the size of the image, '
                f'found {labels.dtype} {tuple(labels.shape)} for {meta.get("img_path", "an image without a file")}.'
            )
        return labels.unique(return_inverse=True)[1]

    @staticmethod
    def _size(meta: dict, inputs: Tensor) -> tuple[int, int]:
        if 'img_padding_size' in meta or 'padding_size' in meta:
            raise DataError(
                'CorrCLIP: regions do not fit images that the data preprocessor padded. Leave test_cfg out.'
            )
        return tuple(meta.get('img_shape', inputs.shape[2:])[:2])

    def extract_feat(self, inputs: Tensor, *view: Any):
        """As in :class:`MaskCLIP`, of images with their regions as a fourth channel, (B, 4, H, W).

        Images alone, (B, 3, H, W), get the regions that ``regions`` gives for images without a file.
        """
        if inputs.shape[1] == 3:
            blank = [SegDataSample() for _ in inputs]
            inputs = self.joined(inputs, [self.label_map(image, {}) for image in inputs], blank)
        images, channel = inputs.split([3, 1], dim=1)
        labels = channel[:, 0].long() - 1
        regions = labels.masked_fill(labels < 0, PADDING)
        return self.text_side.encode(self.backbone, images, ('value',), text=False, regions=regions)[0]

    def strip_maps(self, inputs: Tensor, data_samples: list) -> list:
        """Not available: regions are those of images as they are.

        Raises:
            ConfigError: always.
        """
        raise ConfigError('CorrCLIP: regions do not fit augmented images. Leave the test-time augmentation out.')

    def predict_lists(self, inputs: Tensor, data_samples: list, class_lists: Sequence) -> list:
        """Not available: see :meth:`set_class_names` for other classes.

        Raises:
            ConfigError: always.
        """
        raise ConfigError('CorrCLIP: several lists of classes at once are not supported; call set_class_names instead.')

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Not available.

        Raises:
            ConfigError: always.
        """
        raise ConfigError('CorrCLIP is not trained: its regions are those of whole images. Train MaskCLIP instead.')


def vote(labels: Tensor, regions: Tensor) -> Tensor:
    """Labels (1, H, W) with the most frequent one in each region of (H, W), the smallest of those that tie.

    Pixels of region 0, which means no region, keep theirs.
    """
    count = int(labels.max()) + 1
    votes = torch.bincount(regions.flatten() * count + labels.flatten(), minlength=(int(regions.max()) + 1) * count)
    winners = votes.view(-1, count).argmax(dim=1)
    return torch.where(regions == 0, labels, winners[regions].to(labels.dtype))


@MODELS.register_module()
class RegionFiles:
    """Regions of images from files of the same name.

    Args:
        folder: Of the files: ``.npz`` (the first array, or ``instance_mask``) or ``.png`` with one label a pixel.
        suffix: Of the files, behind the name of the image without its suffix.
    """

    def __init__(self, folder: str, suffix: str = '.npz'):
        self.folder, self.suffix = Path(folder), suffix

    def __call__(self, image: Tensor, meta: dict) -> np.ndarray:
        """Labels (H, W) of an image; the smallest means no region.

        Raises:
            DataError: there is no file, or it cannot be read.
        """
        if not meta.get('img_path'):
            raise DataError('RegionFiles: images without a file have no regions. Give files, or another model.regions.')
        path = self.folder / f'{Path(meta["img_path"]).stem}{self.suffix}'
        if not path.is_file():
            raise DataError(
                f'RegionFiles: no regions of {meta["img_path"]} at {path}. Make them with a class-agnostic '
                'segmentation as SAM 2, one label a pixel, and name their folder, model.regions.folder=DIR.'
            )
        try:
            if path.suffix == '.npz':
                with np.load(path, allow_pickle=False) as arrays:
                    found = arrays['instance_mask' if 'instance_mask' in arrays else arrays.files[0]]
            else:
                found = np.asarray(Image.open(path))
        except (OSError, ValueError, IndexError) as error:
            raise DataError(f'RegionFiles: {path} cannot be read: {error}.') from error
        return np.squeeze(found).astype(np.int64)


@MODELS.register_module()
class ColourRegions:
    """Regions of one colour, for drawn images: connected pixels with colours in the same bin.

    Args:
        bins: Number of bins of each channel.
        least: Smaller regions, in px, count as no region.
    """

    def __init__(self, bins: int = 6, least: int = 30):
        self.bins, self.least = bins, least

    def __call__(self, image: Tensor, meta: dict) -> np.ndarray:
        """Labels (H, W) at the original size, of colours (3, h, w) between 0 and 1; 0 means no region."""
        from cv2 import connectedComponents

        size = tuple(meta.get('ori_shape', image.shape[1:])[:2])
        image = F.interpolate(image[None].float(), size, mode='nearest')[0]
        codes = (image.clamp(0, 1 - 1e-6) * self.bins).long().cpu().numpy()
        codes = (codes[0] * self.bins + codes[1]) * self.bins + codes[2]
        found = np.zeros(codes.shape, np.int64)
        for code in np.unique(codes):
            count, parts = connectedComponents((codes == code).astype(np.uint8), connectivity=4)
            areas = np.bincount(parts.ravel(), minlength=count)
            areas[0] = 0
            numbers = np.where(areas >= self.least, np.arange(count) + found.max(), 0)
            found = np.where(parts > 0, numbers[parts], found)
        return found
