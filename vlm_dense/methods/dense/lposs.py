"""LPOSS and LPOSS+: label propagation over a patch graph, then over pixels.

The patches of all windows of an image are nodes of one graph; its edges join patches that are near each other and
have like DINO features. The scores that MaskCLIP gives to the patches are propagated over this graph by solving one
linear system. LPOSS+ does it again over pixels, with edges from colour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.methods.dense.affinity import IMAGENET_MEAN, IMAGENET_STD, Renormalise, colours_of
from vlm_dense.methods.maskclip import MaskCLIP
from vlm_dense.methods.maskclip.head import ClassNames
from vlm_dense.registry import MODELS
from vlm_dense.segmentation.postprocess import PostProcess
from vlm_dense.segmentation.steps import Aliases as AliasPart
from vlm_dense.segmentation.steps import ClassMaps, OriginalSize, PlaneStep
from vlm_dense.segmentation.window_maps import Box, WindowMaps

PAPER = dict(
    name='LPOSS',
    title='LPOSS: Label Propagation Over Patches and Pixels for Open-vocabulary Semantic Segmentation',
    venue='CVPR 2025',
    link='https://arxiv.org/abs/2503.19777',
    code='https://github.com/vladan-stojnic/LPOSS',
    licence='MIT',
    idea=(
        'The scores of MaskCLIP are propagated over a graph of the patches of all windows of an image, joined by the '
        "similarity of DINO's features and by nearness; LPOSS+ (`model.pixels`) does it once more between pixels, "
        'joined by colour.'
    ),
    notes="""
The published figures come from a public listing of the paper's results.
""",
)


_ROWS_AT_ONCE = 4096


@MODELS.register_module()
class LPOSS(MaskCLIP):
    """MaskCLIP with scores propagated over a graph of the patches of all windows of an image.

    Patches are joined by the affinity of a second backbone's features and by nearness; with the normalised weights W
    and the cosines Y of patches and names, (I - alpha W) Z = Y is solved by a few steps of conjugate gradients from 0;
    their number is part of the method. With ``pixels`` (LPOSS+) the same is done once more between the pixels, joined
    by affinity of colour. Images are normalised as CLIP's.

    Args:
        backbone, class_names: See :class:`~vlm_dense.methods.maskclip.MaskCLIP`.
        proxy: Config of the frozen second backbone, which gives maps, as in
            :class:`~vlm_dense.methods.dense.ProxyCLIPAttention`.
        k: Neighbours of a patch, itself included; all if there are fewer.
        gamma: Power of the affinity.
        sigma, distance_power: Nearness is exp(-sigma d^distance_power), with the distance d in px.
        alpha: Share of the neighbours.
        steps, tol: Steps of conjugate gradients, and the residual relative to |y| at which a name is done.
        pixels: ``dict(tau=0.01, size=13)`` for LPOSS+: scale of the distance of colours, side of the neighbourhood.
        mean, std: Of the proxy's input, of colours between 0 and 1, or ``'own'``: those of a ``ProxyViT``.
        **kwargs: Of :class:`~vlm_dense.methods.maskclip.MaskCLIP`; its refinements do not go with it.

    Raises:
        ConfigError: refinements of MaskCLIP, which would have no effect, or numbers that cannot be.
    """

    by_windows = False

    def __init__(
        self,
        backbone: dict,
        proxy: dict,
        class_names: ClassNames | None = None,
        k: int = 400,
        gamma: float = 3.0,
        sigma: float = 0.01,
        distance_power: float = 1.0,
        alpha: float = 0.95,
        steps: int = 10,
        tol: float = 1e-6,
        pixels: dict | None = None,
        mean: Sequence[float] | str = IMAGENET_MEAN,
        std: Sequence[float] | str = IMAGENET_STD,
        **kwargs: Any,
    ):
        super().__init__(backbone, class_names, **kwargs)
        head = self.decode_head
        if self.postprocess.steps or self.variants or len(head.refinements) > 1:  # more than Aliases
            raise ConfigError(
                'LPOSS: postprocess, variants and refinements other than Aliases would have no effect. Leave them out; '
                'names of the background go into class_names, as [["wall", "sky"], "dog"].'
            )
        if (self.test_cfg or {}).get('window_multiple'):
            raise ConfigError(
                'LPOSS: test_cfg.window_multiple would make nodes of pixels. Leave it out; each backbone pads windows '
                'to its own patch.'
            )
        if not 0 <= alpha < 1 or k < 1 or steps < 1:
            raise ConfigError(
                f'LPOSS: alpha must be at least 0 and below 1, k and steps positive, found {alpha}, {k} and {steps}.'
            )
        self.proxy = MODELS.build(proxy).eval().requires_grad_(False)
        if not hasattr(self.proxy, 'patch_size'):
            raise ConfigError(
                f'LPOSS: the proxy must be a backbone of patches with a patch_size, found {type(self.proxy).__name__}. '
                "Use 'vlm_dense.ProxyViT' or another ViT."
            )
        self.renormalise = Renormalise(*colours_of(self.proxy, mean, std))
        self.renormalise.come_from(self.backbone.preprocessing.mean, self.backbone.preprocessing.std)
        self.k, self.gamma, self.alpha = k, gamma, alpha
        self.sigma, self.distance_power = sigma, distance_power
        self.steps, self.tol = steps, tol
        colours = self.renormalise.colours
        pixel_steps = [] if pixels is None else [PixelPropagation(self.solve, colours, **pixels)]
        self.postprocess = PostProcess([*pixel_steps, AliasPart(), OriginalSize(at_once=True)], windows=0)

    def train(self, mode: bool = True) -> LPOSS:
        """Switch the mode; the proxy stays in eval mode."""
        super().train(mode)
        if hasattr(self, 'proxy'):
            self.proxy.eval()
        return self

    def window_maps(
        self,
        images: list[Tensor],
        forward: Callable[[Tensor], Tensor] | None = None,
        metas: Sequence[dict] | None = None,
    ) -> Iterator[tuple[int, WindowMaps]]:
        """As in :class:`MaskCLIP`, the propagated scores of the names."""
        for n, maps in super().window_maps(images, forward, metas):
            yield n, self.spread(maps)

    def window_map(self, crops: Tensor) -> Tensor:
        """Features for the comparison with the patches of the other windows, see :meth:`both_features`."""
        return self.both_features(crops)

    def class_maps(self, values: Tensor) -> ClassMaps:
        """Scores of the names, of which the released code takes the softmax as they are."""
        return ClassMaps(values, classes=self.decode_head.class_names)

    def predict_lists(self, inputs: Tensor, data_samples: list, class_lists: Sequence) -> list:
        """Not available: see :meth:`set_class_names` for other classes.

        Raises:
            ConfigError: always.
        """
        raise ConfigError('LPOSS: several lists of classes at once are not supported; call set_class_names in between.')

    # --- patches --------------------------------------------------------------------------------------------------

    def both_features(self, crops: Tensor) -> Tensor:
        """CLIP's features and the proxy's, each of unit length, on the proxy's grid, (B, D + C, I, J).

        Args:
            crops: (B, 3, H, W) windows; sides that are no multiple of a patch are filled up with black.
        """
        clip = F.normalize(self.clip_features(crops), dim=1)
        proxy = F.normalize(self.proxy_features(crops), dim=1)
        if clip.shape[2:] != proxy.shape[2:]:
            clip = F.interpolate(clip, proxy.shape[2:], mode='bilinear', align_corners=False)
            clip = F.normalize(clip, dim=1)
        return torch.cat([clip, proxy], dim=1)

    def clip_features(self, crops: Tensor) -> Tensor:
        """(B, D, h, w), float32."""
        return self.extract_feat(self.renormalise.fill_up(crops, self.backbone.stride)).value.float()

    def proxy_features(self, crops: Tensor) -> Tensor:
        """(B, C, I, J), float32."""
        maps = self.proxy(self.renormalise(self.renormalise.fill_up(crops, self.proxy.patch_size)))
        return (maps[-1] if isinstance(maps, (tuple, list)) else maps).float()

    def spread(self, maps: WindowMaps) -> WindowMaps:
        """Windows with the spread scores of the names (N, I, J), of windows with both features (D + C, I, J)."""
        boxes, values = zip(*maps.windows, strict=True)
        shapes = [each.shape[1:] for each in values]
        nodes = torch.cat([each.flatten(1).T for each in values])
        clip, proxy = nodes.split([self.backbone.embed_dim, nodes.shape[1] - self.backbone.embed_dim], dim=1)
        graph = self.graph(proxy, self.places(boxes, shapes, proxy.device))
        found = self.solve(lambda x: torch.sparse.mm(graph, x), self.name_cosines(clip))
        found = found.split([h * w for h, w in shapes])
        spread = WindowMaps(maps.align_corners, maps.whole)
        for box, x, shape in zip(boxes, found, shapes, strict=True):
            spread.add(box, x.T.unflatten(1, shape))
        return spread

    def name_cosines(self, clip: Tensor) -> Tensor:
        """Y (n, N) of CLIP's features (n, D)."""
        text = self.decode_head.embed_classes()
        return self.decode_head.name_scores(clip.T[None, :, :, None], text)[0, :, :, 0].T

    def places(self, boxes: Sequence[Box], shapes: list[tuple[int, int]], device: torch.device) -> Tensor:
        """Row and column in px of each patch's middle in the image, (n, 2), float32."""
        p, found = self.proxy.patch_size, []
        for (y1, _, x1, _), shape in zip(boxes, shapes, strict=True):
            axes = (
                torch.arange(n, device=device) * p + p // 2 + start for n, start in zip(shape, (y1, x1), strict=True)
            )
            found.append(torch.stack(torch.meshgrid(*axes, indexing='ij'), dim=-1).flatten(0, 1))
        return torch.cat(found).float()

    def nearest(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """The k greatest cosines (n, k) of each of the unit features (n, C), descending, and their indices."""
        k = min(self.k, len(features))
        found = [(rows @ features.T).topk(k, dim=1) for rows in features.split(_ROWS_AT_ONCE)]
        return torch.cat([f.values for f in found]), torch.cat([f.indices for f in found])

    def graph(self, features: Tensor, places: Tensor) -> Tensor:
        """W (n, n), sparse: symmetric, without loops, divided by the roots of both row sums."""
        similarity, others = self.nearest(features)
        own = torch.arange(len(features), device=features.device)[:, None].expand_as(others)
        distance = (places[own] - places[others]).norm(dim=-1)
        weights = similarity.clamp_min(0) ** self.gamma * torch.exp(-self.sigma * distance**self.distance_power)
        kept = own != others
        a, b, weights = own[kept], others[kept], weights[kept]
        ends = torch.stack([torch.cat([a, b]), torch.cat([b, a])])
        size = len(features), len(features)
        whole = torch.sparse_coo_tensor(ends, torch.cat([weights, weights]), size, check_invariants=False).coalesce()
        ends, weights = whole.indices(), whole.values()
        sums = weights.new_zeros(len(features)).index_add_(0, ends[0], weights)
        root = sums.where(sums > 0, 1).rsqrt()
        return torch.sparse_coo_tensor(
            ends, weights * root[ends[0]] * root[ends[1]], size, check_invariants=False
        ).coalesce()

    def solve(self, neighbours: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
        """Z (n, N) of (I - alpha W) Z = y, by conjugate gradients from 0; ``neighbours`` multiplies by W."""
        z, rest, direction = torch.zeros_like(y), y.clone(), y.clone()
        size = rest.square().sum(dim=0)
        goal = (self.tol**2) * size
        for _ in range(self.steps):
            going = size > goal
            if not going.any():
                break
            turned = direction - self.alpha * neighbours(direction)
            step = torch.where(going, size / (direction * turned).sum(dim=0), 0)
            z, rest = z + step * direction, rest - step * turned
            new = rest.square().sum(dim=0)
            direction = rest + torch.where(going, new / size, 0) * direction
            size = torch.where(going, new, size)
        return z


class PixelPropagation(PlaneStep):
    """LPOSS+: scores at the size of the image, propagated over a graph of its pixels.

    Args:
        solve: Of :class:`LPOSS`.
        colours: Of images (3, H, W), RGB between 0 and 1.
        tau, size: See :class:`PixelGraph`.
    """

    def __init__(self, solve: Callable, colours: Callable[[Tensor], Tensor], tau: float = 0.01, size: int = 13):
        super().__init__()
        self.solve, self.colours, self.tau, self.size = solve, colours, tau, size

    def on(self, image: Tensor) -> Callable[[Tensor], Tensor]:
        """Spread scores (N, H, W) of maps (N, H, W) of an image (3, H, W)."""
        graph = PixelGraph(self.colours(image), self.tau, self.size)

        def spread(maps: Tensor) -> Tensor:
            found = self.solve(lambda x: graph(x.T.view_as(maps)).flatten(1).T, maps.flatten(1).T)
            return found.T.reshape(maps.shape)

        return spread


class PixelGraph:
    """Normalised weights exp(-|u_a - u_b| / tau) of pixels with the scaled Lab colours u that are near each other.

    Args:
        colours: RGB between 0 and 1, (3, H, W).
        tau: Scale of the distance of colours.
        size: Side of the square neighbourhood, its middle the pixel, in px.
    """

    def __init__(self, colours: Tensor, tau: float, size: int):
        if tau <= 0 or size < 3:
            raise ConfigError(f'LPOSS: pixels needs tau above 0 and a size of at least 3, found {tau} and {size}.')
        lab, reach = scaled_lab(colours), size // 2
        self._pairs = []
        for dy in range(reach + 1):
            for dx in range(-reach, reach + 1):
                here, there = _overlap(lab.shape[1:], dy, dx)
                if (dy == 0 and dx <= 0) or not lab[here].numel():
                    continue  # each pair once
                weight = torch.exp(-(lab[here] - lab[there]).norm(dim=0) / tau)
                self._pairs.append((here, there, weight))
        sums = self._apply(torch.ones_like(lab[:1]))[0]
        self._root = sums.where(sums > 0, 1).rsqrt()

    def __call__(self, maps: Tensor) -> Tensor:
        """W times maps (N, H, W)."""
        return self._apply(maps * self._root) * self._root

    def _apply(self, maps: Tensor) -> Tensor:
        total = torch.zeros_like(maps)
        for here, there, weight in self._pairs:
            total[here] += weight * maps[there]
            total[there] += weight * maps[here]
        return total


def _overlap(size: torch.Size, dy: int, dx: int) -> tuple[tuple, tuple]:
    """The places that have another one dy >= 0 below and dx to the right of them, and those."""
    height, width = size
    here = ..., slice(0, max(height - dy, 0)), slice(max(-dx, 0), max(width - max(dx, 0), 0))
    there = ..., slice(dy, height), slice(max(dx, 0), max(width + min(dx, 0), 0))
    return here, there


def scaled_lab(colours: Tensor) -> Tensor:
    """L / 100, a / 128, b / 128 of RGB between 0 and 1 (sRGB, D65), (3, H, W)."""
    linear = torch.where(colours > 0.04045, ((colours.clamp_min(0) + 0.055) / 1.055) ** 2.4, colours / 12.92)
    matrix = colours.new_tensor(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    white = colours.new_tensor([0.95047, 1.0, 1.08883])
    xyz = (matrix @ linear.flatten(1)).view_as(colours) / white[:, None, None]
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp_min(1e-6) ** (1 / 3), 7.787 * xyz + 4 / 29)
    return torch.stack([(116 * y - 16) / 100, 500 * (x - y) / 128, 200 * (y - z) / 128])
