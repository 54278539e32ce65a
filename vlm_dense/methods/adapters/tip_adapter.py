"""Tip-Adapter: the few labelled images as a cache that a new image is compared with; nothing is trained.

The features of the few training images are keys of a cache, and their labels its values. A test image attends to the
keys, and the labels that it retrieves are added to its zero-shot logits. Nothing is trained; the sharpness of the
attention and the weight of the cache are searched on validation images.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.clip.loading import read_tensor
from vlm_dense.contract.preparation import Prepared, check_classes_present, read_features
from vlm_dense.contract.roles import CosineHead
from vlm_dense.errors import CheckpointError, ConfigError, DataError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='Tip-Adapter',
    title='Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification',
    venue='ECCV 2022',
    link='https://arxiv.org/abs/2207.09519',
    code='https://github.com/gaopengcuhk/Tip-Adapter',
    licence='none',
    idea='A cache of training features beside the cosines with the class names; nothing is trained.',
    trains='nothing; a cache of training features',
    published='ImageNet, RN50: 60.7, 61.0, 61.0, 61.5, 62.0 with 1, 2, 4, 8, 16 shots',
    contract='support, search; cosine + cache',
    variants={
        'tip_adapter_on-test': dict(
            trains='as tip_adapter, alpha and beta searched on test images as in the official code',
        ),
    },
)


_CHUNK = 256  # images of a search that are compared with the cache at once


@MODELS.register_module()
class TipAdapter(Prepared, CosineHead):
    """``scale * q W + alpha * exp(-beta * (1 - q F)) V`` (section 3.1).

    q is the unit feature of the image and W the unit class embeddings. F holds the N = shots * K features of the
    labelled images, each the mean over augmented copies, then of unit length, and V their one-hot labels. A class with
    fewer images leaves rows of zeros.

    From data: ``support``, the labelled images with the augmentation of training, fills the cache; ``search``, if
    given, is what alpha and beta are searched on. The official code searches on the whole validation split, and on the
    test set of ImageNet.

    Args:
        class_names, image_tower: The classifier's; give K and D.
        shots: Images of a class in the cache.
        passes: Augmented copies of each image.
        alpha, beta: Mixing factor and sharpness without search. (The first version of the paper exchanges the names.)
        search_scale: The search ends below this (beta, alpha); it begins at 0.1.
        search_step: Numbers of values of beta and of alpha.
        pretrained: ``dict(keys=..., values=...)``, files of the official code's cache: F (D, N) and V (N, K).

    Attributes:
        keys: F transposed, (N, D).
        values: V, (N, K).
        search_accuracy: Percent of the last search's images, float64, an axis for each of ``searched``.

    Raises:
        ConfigError: counts below 1, or a cache that was never filled.
        CheckpointError: files for other classes, shots or another tower.
    """

    searched: tuple[str, ...] = ('beta', 'alpha')
    """Numbers to search; the last one changes first."""
    search_start: tuple[float, ...] = (0.1, 0.1)
    """Start of the search of each."""

    def __init__(
        self,
        class_names: Sequence[str],
        image_tower: ImageTower,
        shots: int = 16,
        passes: int = 10,
        alpha: float = 1.17,
        beta: float = 1.0,
        search_scale: Sequence[float] = (7.0, 3.0),
        search_step: Sequence[int] = (200, 20),
        pretrained: Mapping[str, str] | None = None,
    ):
        super().__init__()
        if min(shots, passes, *search_step) < 1:
            raise ConfigError(
                f'{type(self).__name__}: shots, passes and search_step must be at least 1, found {shots}, {passes} and '
                f'{tuple(search_step)}.'
            )
        if not len(search_scale) == len(search_step) == len(self.searched):
            raise ConfigError(
                f'{type(self).__name__}: search_scale and search_step need one number each for '
                f'{", ".join(self.searched)}, found {tuple(search_scale)} and {tuple(search_step)}.'
            )
        self.class_names = tuple(class_names)
        self.shots, self.passes = shots, passes
        self.search_scale, self.search_step = tuple(search_scale), tuple(search_step)
        self._make_keys(torch.zeros(shots * len(self.class_names), image_tower.embed_dim))
        self.register_buffer('values', torch.zeros(len(self.keys), len(self.class_names)))
        self.register_buffer('alpha', torch.tensor(float(alpha)))
        self.register_buffer('beta', torch.tensor(float(beta)))
        self.search_accuracy: Tensor | None = None
        if pretrained is not None:
            self._fill(self._read(pretrained['keys'], self.keys.T).T, self._read(pretrained['values'], self.values))

    def _make_keys(self, keys: Tensor) -> None:
        self.register_buffer('keys', keys)

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K), or (B, V, K) with the same cache beside each variant of the prompt."""
        self.check_prepared()
        cached = self.alpha * self.retrieved(self.affinity(features.global_), self.beta)
        clip = self.clip_logits(features, text, logit_scale)
        return clip + (cached if clip.dim() == 2 else cached[:, None])

    def clip_logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """Logits of the class embeddings, (B, K) or (B, V, K)."""
        return super().logits(features, text, logit_scale)

    def affinity(self, features: Tensor) -> Tensor:
        """Products (B, N) of unit features of images, given as (B, D), and the keys."""
        return F.normalize(features, dim=-1) @ self.keys.T

    def retrieved(self, affinity: Tensor, beta: float | Tensor) -> Tensor:
        """Logits of the cache (B, K) for images with this affinity (B, N) to its keys."""
        return (-beta * (1 - affinity)).exp() @ self.values

    # --- the cache ------------------------------------------------------------------------------------------------

    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Fill the cache from ``support`` and search alpha and beta on ``search``.

        Raises:
            DataError: a class without image, or more images than the cache has room for.
        """
        self.fill(model, self.loader(data, 'support'))
        if 'search' in data:
            self.search(model, data['search'])

    def fill(self, model: nn.Module, loader: DataLoader) -> None:
        """Fill the cache from a data set; see :meth:`prepare`."""
        features, labels = read_features(model, loader, self.passes)
        kind, room = type(self).__name__, len(self.keys)
        if len(features) > room:
            raise DataError(
                f'{kind} has room for {self.shots} images of each of {len(self.class_names)} classes, {room} in all, '
                f'and its support set has {len(features)}. Set shots to that of the data.'
            )
        check_classes_present(labels, self.class_names, f'{kind}: the support set')
        self._fill(F.normalize(features, dim=-1), F.one_hot(labels, len(self.class_names)).float())

    def _fill(self, keys: Tensor, values: Tensor) -> None:
        with torch.no_grad():
            for stored, rows in ((self.keys, keys), (self.values, values)):
                stored.zero_()
                stored[: len(rows)] = rows
        self.prepared = True

    def _read(self, path: str, own: Tensor) -> Tensor:
        found = read_tensor(path).float()
        if found.shape != own.shape:
            raise CheckpointError(
                f'{path} does not fit: expected {tuple(own.shape)}, found {tuple(found.shape)}. This '
                f'{type(self).__name__} has {self.shots} shots of {len(self.class_names)} classes and the '
                f'{self.keys.shape[1]} channels of its tower.'
            )
        return found

    # --- the search -----------------------------------------------------------------------------------------------

    @property
    def grid(self) -> tuple[list[float], ...]:
        """Values that are searched, a list for each of ``searched``."""
        return tuple(
            [i * (scale - start) / steps + start for i in range(steps)]
            for start, scale, steps in zip(self.search_start, self.search_scale, self.search_step, strict=True)
        )

    @torch.no_grad()
    def search(self, model: nn.Module, loader: DataLoader) -> None:
        """Set the numbers of ``searched`` to the first ones that classify most images of a data set.

        Args:
            model: The classifier, in eval mode.
            loader: The labelled images.

        Raises:
            ConfigError: the text prompt depends on the image.
        """
        prompt, name = model.text_prompt, type(self).__name__
        if prompt.image_conditioned:
            raise ConfigError(
                f'{name} searches with texts that serve all images, and those of {type(prompt).__name__} depend on the '
                'image. Give alpha and beta, and leave out the search.'
            )
        features, labels = read_features(model, loader)
        text = model.text_side.classifier_weights()
        text = text if text.dim() == 2 else text[None]
        scale = model.text_encoder.logit_scale.exp()
        betas, alphas, *more = self.grid
        mixing = torch.tensor(alphas, device=features.device)[:, None, None]
        right = torch.zeros([len(values) for values in self.grid], dtype=torch.int64, device=features.device)
        for images, truth in zip(features.split(_CHUNK), labels.split(_CHUNK), strict=True):
            clip = self.clip_logits(ImageFeatures(global_=images), text, scale)
            affinity = self.affinity(images)
            for (place, beta), *others in itertools.product(*map(enumerate, (betas, *more))):
                cached = mixing * self.retrieved(affinity, beta, *(value for _, value in others))
                if clip.dim() == 2:
                    logits = clip + cached
                else:
                    logits = torch.stack([prompt.reduce_variants(clip + c[:, None]) for c in cached])
                right[(place, slice(None), *(at for at, _ in others))] += (logits.argmax(-1) == truth).sum(-1)
        self.search_accuracy = 100 * right.double().cpu() / len(labels)
        if right.max() > 0:
            best = torch.unravel_index(right.flatten().argmax(), right.shape)
            for searched, values, place in zip(self.searched, self.grid, best, strict=True):
                self.get_buffer(searched).fill_(values[place])
        found = ', '.join(f'{searched} {float(self.get_buffer(searched)):.4g}' for searched in self.searched)
        print_log(
            f'{name}: {found} classify {self.search_accuracy.max():.2f} % of {len(labels)} images, most '
            f'of {right.numel()} combinations.',
            logger='current',
        )
