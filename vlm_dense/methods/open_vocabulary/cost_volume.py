"""Segmentors that refine a cost volume, the cosines of positions and class names, with no weight for any class.

What CAT-Seg and SED have in common. Shapes: B images, K classes, P variants of the text prompt (templates, samples; 1
where it has none), a grid of h x w positions, D channels of the joint space, C channels of the head. Tensors of classes
are (B K, C, h, w), image by image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.utils import add_prefix
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.errors import ConfigError
from vlm_dense.methods.open_vocabulary.text import OpenVocabularySegmentor
from vlm_dense.segmentation.postprocess import PostProcess
from vlm_dense.segmentation.steps import ClassMaps, OriginalSize
from vlm_dense.segmentation.strips import strip_binary_cross_entropy
from vlm_dense.segmentation.window_maps import independent

# --- parts of the heads -----------------------------------------------------------------------------------------------


def exporting() -> bool:
    """Whether ``torch.export`` traces the call; never in a torch that is too old to export."""
    return getattr(torch.compiler, 'is_exporting', bool)()


def repeated(maps: Tensor, classes: int) -> Tensor:
    """One map (B, ...) of an image for each of its classes, (B K, ...)."""
    return maps.repeat_interleave(classes, dim=0)


def joint_linear(layer: nn.Linear, own: Tensor, shared: Tensor | None) -> Tensor:
    """A linear layer of two joined inputs, of which the second is the same for several rows of the first.

    Args:
        layer: Of C_own + C_shared inputs.
        own: (..., C_own).
        shared: (..., C_shared), broadcastable to ``own`` behind the layer; ``None`` if there is none.
    """
    if shared is None:
        return layer(own)
    split = own.shape[-1]
    return F.linear(own, layer.weight[:, :split]) + F.linear(shared, layer.weight[:, split:], layer.bias)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, more: tuple[Tensor, Tensor, int] | None, eps=1e-6) -> Tensor:
    """Attention by phi(q) . phi(k) with phi = elu + 1, instead of the exponential of q . k.

    Args:
        q, k, v: (..., L, H, d).
        more: Key and value (H, d) that all queries see as often as the third entry says.
        eps: Added to the normaliser.
    """
    q, k = F.elu(q) + 1, F.elu(k) + 1
    mixed, total = torch.einsum('...lhd,...lhe->...hde', k, v), k.sum(dim=-3)
    if more is not None:
        key, value, count = F.elu(more[0]) + 1, more[1], more[2]
        mixed = mixed + count * key[..., None] * value[:, None, :]
        total = total + count * key
    norm = 1 / (torch.einsum('...lhd,...hd->...lh', q, total) + eps)
    return torch.einsum('...lhd,...hde,...lh->...lhe', q, mixed, norm)


def full_attention(q: Tensor, k: Tensor, v: Tensor, more: tuple[Tensor, Tensor, int] | None) -> Tensor:
    """Attention by the softmax of q . k / sqrt(d); arguments as of :func:`linear_attention`."""
    q = q * q.shape[-1] ** -0.5
    scores = torch.einsum('...lhd,...shd->...hls', q, k)
    if more is None:
        return torch.einsum('...hls,...shd->...lhd', scores.softmax(dim=-1), v)
    again = torch.einsum('...lhd,hd->...hl', q, more[0])[..., None] + math.log(more[2])
    weights = torch.cat([scores, again], dim=-1).softmax(dim=-1)
    mixed = torch.einsum('...hls,...shd->...lhd', weights[..., :-1], v)
    return mixed + torch.einsum('...hl,hd->...lhd', weights[..., -1], more[1])


ATTENTIONS: dict[str, Callable] = dict(linear=linear_attention, full=full_attention)


class _Projections(nn.Module):
    def __init__(self, channels: int, guidance: int):
        super().__init__()
        self.q = nn.Linear(channels + guidance, channels)
        self.k = nn.Linear(channels + guidance, channels)
        self.v = nn.Linear(channels, channels)


class ClassAttention(nn.Module):
    """Attention among the classes, at each position by itself; any number of classes, in any order.

    Args:
        channels: C.
        guidance: Channels of the text guidance, 0 for none.
        heads: Attention heads.
        attention: ``'linear'`` or ``'full'``.
        pad_len: Fewer classes are filled up to this number by a learned one; 0: they are not.
    """

    def __init__(self, channels: int, guidance: int, heads: int, attention: str = 'linear', pad_len: int = 0):
        super().__init__()
        self.heads, self.attention_type, self.pad_len = heads, attention, pad_len
        self.attention = _Projections(channels, guidance)
        self.MLP = nn.Sequential(nn.Linear(channels, 4 * channels), nn.ReLU(), nn.Linear(4 * channels, channels))
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        if pad_len:
            self.padding_tokens = nn.Parameter(torch.zeros(1, 1, channels))
            self.padding_guidance = nn.Parameter(torch.zeros(1, 1, guidance)) if guidance else None

    def forward(
        self, x: Tensor, guidance: Tensor | None, classes: int, pool: Sequence[int], chunk: int | None = None
    ) -> Tensor:
        """Add the refined maps to the maps.

        Args:
            x: (B K, C, h, w).
            guidance: (B or 1, K, G), of the texts.
            classes: K.
            pool: The attention runs on averages of so many rows and columns; the rest is left out.
            chunk: Where no gradient is needed, as many positions at once as that many maps have; ``None``: all.

        Returns:
            (B K, C, h, w).
        """
        size = x.shape[2:]
        if pool[0] > size[0] or pool[1] > size[1]:
            raise ConfigError(f'The pooling {tuple(pool)} of class attention exceeds the grid of {tuple(size)}.')
        pooled = F.avg_pool2d(x, tuple(pool)) if tuple(pool) != (1, 1) else x
        rows = pooled.unflatten(0, (-1, classes)).permute(0, 3, 4, 1, 2)  # (B, h', w', K, C)
        strips = (rows,)
        if chunk is not None and not torch.is_grad_enabled() and not torch.compiler.is_compiling():
            strips = rows.split(max(chunk * rows.shape[1] // len(x), 1), dim=1)
        refined = []
        for strip in strips:
            strip = strip + self._attend(strip, guidance)
            refined.append(strip + self.MLP(self.norm2(strip)))
        found = torch.cat(refined, dim=1).permute(0, 3, 4, 1, 2).flatten(0, 1)
        if found.shape[2:] != size:
            found = F.interpolate(found, size, mode='bilinear', align_corners=True)
        return x + found

    def _attend(self, rows: Tensor, guidance: Tensor | None) -> Tensor:
        of, heads = self.attention, (self.heads, -1)
        y = self.norm1(rows)
        guidance = None if guidance is None else guidance[:, None, None]
        q, k = (joint_linear(layer, y, guidance).unflatten(-1, heads) for layer in (of.q, of.k))
        v = of.v(y).unflatten(-1, heads)
        more, missing = None, self.pad_len - rows.shape[3]
        if missing > 0:  # what is filled in is the same everywhere, so that its key and value are computed once
            y = self.norm1(self.padding_tokens)
            key, value = joint_linear(of.k, y, self.padding_guidance), of.v(y)
            more = key.view(heads), value.view(heads), missing
        return ATTENTIONS[self.attention_type](q, k, v, more).flatten(-2)


class _DoubleConv(nn.Module):
    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        groups = max(channels // 16, 1)
        self.double_conv = nn.Sequential(
            nn.Conv2d(in_channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups, channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.GroupNorm(groups, channels),
            nn.ReLU(),
        )


class Up(nn.Module):
    """Double the size of the maps of classes, and join to them a map of the image and, if any, one of each class.

    Args:
        in_channels: C.
        channels: Of the result.
        image: Channels of the map of the image.
        own: Channels of the map of each class.
    """

    def __init__(self, in_channels: int, channels: int, image: int, own: int = 0):
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, in_channels - image, 2, stride=2)
        self.conv = _DoubleConv(in_channels + own, channels)

    def forward(self, x: Tensor, image: Tensor, own: Tensor | None, classes: int) -> Tensor:
        """(B K, C, h, w), the image's (B, c, 2 h, 2 w) and the classes' (B K, c, 2 h, 2 w) to (B K, C', 2 h, 2 w).

        Raises:
            ConfigError: the map of the image has another size.
        """
        x, (first, *rest) = self.up(x), self.conv.double_conv
        if image.shape[2:] != x.shape[2:]:
            raise ConfigError(
                f'A step of the decoder joins a map of {tuple(x.shape[2:])}, but that of the tower is '
                f'{tuple(image.shape[2:])}. Choose a tower with the strides that the decoder needs, and a '
                'clip_resolution that is a multiple of the largest.'
            )
        ends = x.shape[1], x.shape[1] + image.shape[1]
        found = F.conv2d(x, first.weight[:, : ends[0]], padding=1)
        found = found + repeated(F.conv2d(image, first.weight[:, ends[0] : ends[1]], padding=1), classes)
        if own is not None:
            found = found + F.conv2d(own, first.weight[:, ends[1] :], padding=1)
        for layer in rest:
            found = layer(found)
        return found


def by_classes(function: Callable[..., Tensor], x: Tensor, classes: int, chunk: int, *own: Tensor | None) -> Tensor:
    """Apply what treats each class by itself to a few classes of all images at a time, where no gradient is needed.

    Args:
        function: Of maps (B k, ...) of k classes, of k, and of the same rows of ``own``.
        x: (B K, ...).
        classes: K.
        chunk: Largest B k.
        *own: Further maps (B K, ...).
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(x, classes, *own)
    batch = len(x) // classes
    several = max(chunk // batch, 1)
    if several >= classes:
        return function(x, classes, *own)
    parts = []
    for start in range(0, classes, several):
        rows = slice(start, start + several)
        few = [None if t is None else t.unflatten(0, (batch, classes))[:, rows].flatten(0, 1) for t in (x, *own)]
        count = len(few[0]) // batch
        parts.append(function(few[0], count, *few[1:]).unflatten(0, (batch, count)))
    return torch.cat(parts, dim=1).flatten(0, 1)


# --- the head ---------------------------------------------------------------------------------------------------------


class CostVolumeHead(BaseDecodeHead):
    """Base of the heads on a cost volume: the loss, and the choice of the classes that go on.

    Args:
        num_classes: K at the start; any other is possible later.
        pooling, test_pooling: Rows and columns that class attention averages, in training and in evaluation. No
            weights depend on it.
        chunk_size: Maps of classes that are refined at once where no gradient is needed; class attention takes as many
            positions of all classes at once as these maps have.
        ignore_index: Label of pixels of no class. They count in the loss: every class is told from them.
        align_corners: Of the enlargement of logits.
    """

    def __init__(
        self,
        num_classes: int,
        pooling: int | Sequence[int] = 2,
        test_pooling: int | Sequence[int] = 1,
        chunk_size: int = 64,
        ignore_index: int = 255,
        align_corners: bool = False,
        init_cfg: dict | None = None,
    ):
        super().__init__(
            1,
            1,
            num_classes=num_classes,
            dropout_ratio=0,
            threshold=0.5,
            ignore_index=ignore_index,
            align_corners=align_corners,
            init_cfg=init_cfg,
        )
        del self.conv_seg
        self.pooling, self.test_pooling = _pair(pooling), _pair(test_pooling)
        self.chunk_size = chunk_size

    @property
    def pool(self) -> tuple[int, int]:
        """Pooling of class attention in the mode of the moment."""
        return self.pooling if self.training else self.test_pooling

    def losses(self, logits: Sequence[Tensor], batch_data_samples: list) -> dict[str, Tensor]:
        """The loss of each of several logits (B, K, h, w), by name."""
        raise NotImplementedError

    def binary_loss(self, logits: Tensor, batch_data_samples: list) -> tuple[Tensor, Tensor]:
        """Mean over pixels and classes of the binary cross-entropy, and the percentage of pixels that are right."""
        labels = self._stack_batch_gt(batch_data_samples).squeeze(1)
        total, hits = strip_binary_cross_entropy(logits, labels, self.ignore_index, self.align_corners)
        valid = (labels != self.ignore_index).sum().clamp(min=1)
        return total / (labels.numel() * logits.shape[1]), 100 * hits / valid


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


# --- the model --------------------------------------------------------------------------------------------------------


class CostVolumeSegmentor(OpenVocabularySegmentor):
    """Base of the segmentors with a cost volume.

    Call graph::

        loss / predict --> features: image at clip_resolution --> text_side.encode: maps of the tower, class embeddings
                --> decode_head(features, text_side.scores: cosines (B, P, K, h, w), class embeddings) --> logits

    A text prompt with variants gives the cost volume a channel each.

    Args:
        backbone, text_encoder, decode_head, text_prompt, image_prompt, class_names, **kwargs: See
            :class:`~vlm_dense.methods.open_vocabulary.text.OpenVocabularySegmentor`.
        clip_resolution: (height, width) that images get before they enter the tower, whatever their aspect.

    Attributes:
        features: Names of the features of the tower that the head reads; the first one is compared with the classes.
    """

    features: tuple[str, ...] = ('value', 'stages')
    activation = staticmethod(independent)

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict,
        clip_resolution: int | Sequence[int] = 384,
        **kwargs: Any,
    ):
        super().__init__(backbone, text_encoder, decode_head, **kwargs)
        self.clip_resolution = _pair(clip_resolution)
        self.postprocess = PostProcess([OriginalSize(at_once=True)])

    @property
    def num_variants(self) -> int:
        """P, channels of the cost volume."""
        return self.text_prompt.num_variants or 1

    # --- network ----------------------------------------------------------------------------------------------

    def encode(self, images: Tensor) -> tuple[ImageFeatures, Tensor, Tensor]:
        """Features of images (B, 3, H, W), the cost volume (B, P, K, h, w), and the class embeddings as prompted."""
        if torch.compiler.is_compiling() or tuple(images.shape[2:]) != self.clip_resolution:  # for images of any size
            images = F.interpolate(images, self.clip_resolution, mode='bilinear', align_corners=False)
        side = self.text_side
        features, text = side.encode(self.backbone, images, self.features)
        cost = side.scores(getattr(features, self.features[0]), text)
        return features, cost if cost.dim() == 5 else cost[:, None], text

    def mean_text(self, text: Tensor) -> Tensor:
        """One unit vector a class (B or 1, K, D), float32, of class embeddings as the prompt gave them."""
        weights = self.text_prompt.classifier_weights(text.float())
        if self.text_prompt.num_variants is not None:
            weights = weights.mean(dim=-3)
        return F.normalize(weights if weights.dim() == 3 else weights[None], dim=-1)

    def extract_feat(self, inputs: Tensor) -> tuple:
        """What the head takes, of images (B, 3, H, W)."""
        features, cost, text = self.encode(inputs)
        return features, cost, self.mean_text(text)

    def _forward(self, inputs: Tensor, data_samples: list | None = None) -> Tensor:
        """Logits (B, K, h, w) of images (B, 3, H, W)."""
        return self.decode_head(*self.extract_feat(inputs))

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses ``decode.*`` of images (B, 3, H, W), and ``prompt.*``, the prompt's own."""
        features, cost, text = self.encode(inputs)
        found = self.decode_head.all_logits(features, cost, self.mean_text(text))
        losses = add_prefix(self.decode_head.losses(found, data_samples), 'decode')
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses

    def window_map(self, crops: Tensor) -> Tensor:
        """Logits (B, K, h, w) of windows, or probabilities of whole images."""
        logits = self._forward(crops)
        return logits.sigmoid() if self._mode() == 'whole' else logits

    def class_maps(self, values: Tensor) -> ClassMaps:
        """Probabilities, independent of each other."""
        return ClassMaps(values, kind='probabilities')

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _read_official(self, state_dict: dict, prefix: str, *args) -> None:
        """Give weights of the official release, which builds upon detectron2, the names that they have here."""
        theirs = f'{prefix}sem_seg_head.predictor.'
        for key in [key for key in state_dict if key.startswith(theirs)]:
            value, name = state_dict.pop(key), key.removeprefix(theirs)
            if name.endswith('attn_mask') or name == 'clip_model.logit_scale':
                continue
            for old, new in _OFFICIAL.items():
                if name.startswith(old):
                    state_dict[f'{prefix}{new}{name.removeprefix(old)}'] = value
                    break
            else:
                state_dict[key] = value


_OFFICIAL = {'clip_model.visual.': 'backbone.', 'clip_model.': 'text_encoder.', 'transformer.': 'decode_head.'}
