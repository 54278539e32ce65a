"""APE and APE-T: Tip-Adapter's cache on the channels that tell classes apart; training refines one vector a class.

Only some feature channels tell the classes of a task apart, so APE keeps those with a low similarity between classes
and a high variance of the text features. On them, training images form a cache as in Tip-Adapter, in which an image
counts more the worse CLIP predicts it. APE-T trains one residual for each class on these channels and one weight for
each training image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.clip.loading import check_fit, read_state_dict
from vlm_dense.errors import ConfigError
from vlm_dense.methods.adapters.tip_adapter import TipAdapter
from vlm_dense.registry import MODELS

PAPER = dict(
    name='APE and APE-T',
    title='Not All Features Matter: Enhancing Few-shot CLIP with Adaptive Prior Refinement',
    venue='ICCV 2023',
    link='https://arxiv.org/abs/2304.01195',
    code='https://github.com/yangyangyang127/APE',
    licence='none',
    idea=(
        "Tip-Adapter's cache on discriminative channels (APE, nothing is trained); one residual a "
        'class on these channels and one weight an image are trained (APE-T).'
    ),
    trains='nothing; a cache of training features on the channels that tell classes apart',
    published='ImageNet, RN50: 62.0, 62.3, 62.5, 62.8, 63.4 with 1, 2, 4, 8, 16 shots',
    contract='support, search; sentences; cosine + cache on chosen channels; CE',
    variants={
        'ape_t': dict(
            trains='a residual of each class on these channels, and a weight of each training image',
            published='ImageNet, RN50: 62.5, 63.3, 63.7, 64.8, 66.1 with 1, 2, 4, 8, 16 shots',
        ),
    },
    notes="""
The official script lets APE-T use the channels that APE has chosen before from text and images; `images_count=True`
does the same. Files of the release: `pretrained=dict(keys=..., values=..., trained=...)`; `trained` is the
`state_dict()` of the module that the release pickles whole.

Published by the authors: ImageNet, RN50, with 1, 2, 4, 8, 16 shots: APE 62.04, 62.34, 62.54, 62.79, 63.42, APE-T
62.51, 63.25, 63.66, 64.80, 66.07, chosen on the test images.
""",
)


_TINY = 1e-6  # keeps the logarithms of the divergence finite


class _Refined(TipAdapter):
    """A cache with Q chosen channels.

    Args:
        class_names, image_tower: The classifier's; give K and D.
        channels: Q.
        weights: Of similarity and of variance in the choice of channels.
        images_count: The labelled images count in the similarity, not the class embeddings alone.
        **kwargs: See :class:`TipAdapter`. With ``pretrained`` the cache is that of the files, and
            ``PrepareHook`` only chooses the channels.

    Attributes:
        channels: The chosen channels (Q,), int64, the best first.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        image_tower: ImageTower,
        channels: int,
        weights: Sequence[float],
        images_count: bool,
        pretrained: Mapping[str, str] | None = None,
        **kwargs: Any,
    ):
        super().__init__(class_names, image_tower, pretrained=pretrained, **kwargs)
        kind, width = type(self).__name__, image_tower.embed_dim
        if not 1 <= channels <= width:
            raise ConfigError(f'{kind}: channels must lie between 1 and the {width} of the tower, found {channels}.')
        if len(weights) != 2:
            raise ConfigError(f'{kind}: weights are those of similarity and of variance, found {tuple(weights)}.')
        if len(self.class_names) < 2:
            raise ConfigError(f'{kind} chooses the channels that tell classes apart, and there is one class only.')
        self.weights, self.images_count = tuple(weights), images_count
        self.register_buffer('channels', torch.arange(channels))
        self.filled, self.prepared = self.prepared, False

    @torch.no_grad()
    def refine(self, model: nn.Module, data: Mapping[str, DataLoader]) -> Tensor:
        """Fill the cache from ``support``, unless files have, and choose the channels; the unit text (K, D)."""
        if not self.filled:
            self.fill(model, self.loader(data, 'support'))
        text = model.text_side.classifier_weights()
        if text.dim() != 2:
            raise ConfigError(
                f'{type(self).__name__} reads one text a class, {type(model.text_prompt).__name__} gives more.'
            )
        self.channels.copy_(self.criterion(text).topk(len(self.channels)).indices)
        self.prepared = True
        return text

    def criterion(self, text: Tensor) -> Tensor:
        """Merit (D,) of each channel for classes (K, D): they are unlike there, and the text varies (section 3.2)."""
        similarity, variance = self.weights
        return variance * text.var(dim=0) - similarity * self.similarity(text)

    def similarity(self, text: Tensor) -> Tensor:
        """Mean product (D,), channel by channel, of members of different classes (K, D)."""
        members, owner = text, torch.arange(len(text), device=text.device)
        if self.images_count:
            stored = self.values.any(dim=1)
            members = torch.cat([text, self.keys[stored]])
            owner = torch.cat([owner, self.values[stored].argmax(dim=1)])
        return class_similarity(members, owner)


@MODELS.register_module()
class APE(_Refined):
    """``scale * q W + alpha * (exp(-beta * (1 - q~ F~)) * exp(gamma * kl)) V`` (section 3.3); nothing is trained.

    ``~`` are the Q chosen channels, of unit length again. ``kl`` is great for labelled images that the class embeddings
    get wrong: ``log2((1 + 1e-6) / (p + 1e-6))``, p the softmax, of cosines without temperature, at the image's class.

    From data: as :class:`TipAdapter`.

    Args:
        class_names, image_tower, channels, weights, images_count, **kwargs: See :class:`TipAdapter`; ``channels`` is
            Q, ``weights`` are those of similarity and of variance in the choice of channels, and with
            ``images_count=False`` the similarity is that of the class embeddings alone.
        gamma: Sharpness of the weights of labelled images without search.
        search_scale, search_step: Of beta, alpha and gamma; the search of gamma begins at 0.

    Attributes:
        kl: (N,).

    Raises:
        ConfigError: a number of channels that the tower does not have, one class only, or what
            :class:`TipAdapter` refuses.
    """

    searched = ('beta', 'alpha', 'gamma')
    search_start = (0.1, 0.1, 0.0)

    def __init__(
        self,
        class_names: Sequence[str],
        image_tower: ImageTower,
        channels: int = 500,
        weights: Sequence[float] = (0.7, 0.3),
        images_count: bool = True,
        gamma: float = 0.1,
        alpha: float = 2.0,
        search_scale: Sequence[float] = (7.0, 7.0, 0.5),
        search_step: Sequence[int] = (200, 20, 5),
        **kwargs: Any,
    ):
        kwargs.update(alpha=alpha, search_scale=search_scale, search_step=search_step)
        super().__init__(class_names, image_tower, channels, weights, images_count, **kwargs)
        self.register_buffer('gamma', torch.tensor(float(gamma)))
        self.register_buffer('kl', torch.zeros(len(self.keys)))

    def affinity(self, features: Tensor) -> Tensor:
        """Products (B, N) of images (B, D) and the keys, on the chosen channels."""
        return self.chosen(F.normalize(features, dim=-1)) @ self.chosen(self.keys).T

    def chosen(self, features: Tensor) -> Tensor:
        """The chosen channels (..., Q) of (..., D), of unit length."""
        return F.normalize(features[..., self.channels], dim=-1)

    def retrieved(self, affinity: Tensor, beta: float | Tensor, gamma: float | Tensor | None = None) -> Tensor:
        """Logits of the cache (B, K) for images with this affinity (B, N) to its keys."""
        gamma = self.gamma if gamma is None else gamma
        return (gamma * self.kl - beta * (1 - affinity)).exp() @ self.values

    @torch.no_grad()
    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Fill the cache from ``support``, choose channels, and search on ``search``."""
        text = self.refine(model, data)
        predicted = (self.chosen(self.keys) @ self.chosen(text).T).softmax(dim=1)
        self.kl.copy_(((1 + _TINY) / ((predicted * self.values).sum(dim=1) + _TINY)).log2())
        if 'search' in data:
            self.search(model, data['search'])


@MODELS.register_module()
class APET(_Refined):
    """APE-T (section 3.4): ``scale * q W' + alpha * exp(-beta * (1 - q F')) (V * weights)`` on all channels.

    W' and the keys F' of a class are W and F plus one residual of the class on the Q chosen channels; nothing is
    normalised again. Residuals and the weight of each labelled image are trained, with the alpha and beta that were
    given; ``finish`` then searches both.

    In the official script, channels that APE has chosen before from text and images are taken up; that is
    ``images_count=True``.

    From data: as :class:`~vlm_dense.methods.adapters.tip_adapter_f.TipAdapterF`.

    Args:
        class_names, image_tower, channels, weights, images_count: See :class:`APE`.
        pretrained: ``keys`` and ``values`` as for :class:`TipAdapter`, and ``trained``, a state dict of ``res`` (K, Q)
            and ``value_weights`` (N, 1). The release pickles the module whole: save its ``state_dict()`` first.
        **kwargs: See :class:`TipAdapter`.

    Attributes:
        res: Residuals (K, Q).
        value_weights: (N, 1).
    """

    def __init__(
        self,
        class_names: Sequence[str],
        image_tower: ImageTower,
        channels: int = 500,
        weights: Sequence[float] = (0.2, 0.8),
        images_count: bool = False,
        alpha: float = 2.0,
        pretrained: Mapping[str, str] | None = None,
        **kwargs: Any,
    ):
        own = dict(kwargs, alpha=alpha, pretrained=pretrained)
        super().__init__(class_names, image_tower, channels, weights, images_count, **own)
        self.res = nn.Parameter(torch.zeros(len(self.class_names), channels))
        self.value_weights = nn.Parameter(torch.ones(len(self.keys), 1))
        if pretrained is not None and 'trained' in pretrained:
            self._load(pretrained['trained'])

    def _load(self, path: str) -> None:
        trained, found = dict(res=self.res, value_weights=self.value_weights), read_state_dict(path)
        check_fit(found, {name: parameter.shape for name, parameter in trained.items()}, path)
        for name, parameter in trained.items():
            parameter.data.copy_(found[name])

    def residual(self) -> Tensor:
        """Residual of the classes (K, D); 0 on the other channels."""
        whole = self.res.new_zeros(len(self.res), self.keys.shape[1])
        return whole.index_copy(1, self.channels, self.res)

    def clip_logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """Logits of the class embeddings with the residual, (B, K)."""
        return super().clip_logits(features, text + self.residual(), logit_scale)

    def affinity(self, features: Tensor) -> Tensor:
        """Products (B, N) of images (B, D) and the keys after the residual."""
        return F.normalize(features, dim=-1) @ (self.keys + self.values @ self.residual()).T

    def retrieved(self, affinity: Tensor, beta: float | Tensor) -> Tensor:
        """Logits of the cache (B, K) for images with this affinity (B, N) to its keys."""
        return (-beta * (1 - affinity)).exp() @ (self.values * self.value_weights)

    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Fill the cache from ``support`` and choose channels."""
        self.refine(model, data)

    def finish(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Search alpha and beta on ``search``."""
        self.search(model, self.loader(data, 'search'))


def class_similarity(members: Tensor, owner: Tensor) -> Tensor:
    """Mean product (D,), channel by channel, of members (M, D) of different classes; ``owner`` (M,) are their classes.

    Each pair of classes weighs the same: ``((sum g)^2 - sum g^2) / (K (K - 1))`` with the class means g.
    """
    count = owner.bincount().to(members.dtype)[:, None]
    means = members.new_zeros(len(count), members.shape[1]).index_add(0, owner, members) / count
    return (means.sum(dim=0).square() - means.square().sum(dim=0)) / (len(means) * (len(means) - 1))
