"""GDA-CLIP: a Gaussian for each class over image features, with one shared covariance; nothing is trained.

The image features of each class are taken as a Gaussian with a mean of its own and a covariance that all classes
share, so Bayes' rule is a linear classifier in closed form. The covariance of few images is singular; its inverse is
estimated with a ridge that its trace sets. The result is added to the zero-shot logits with one weight, which is
searched on validation images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.contract.preparation import Prepared, check_classes_present, read_features, read_passes
from vlm_dense.contract.roles import CosineHead
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='GDA-CLIP',
    title='A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation',
    venue='ICLR 2024',
    link='https://arxiv.org/abs/2402.04087',
    code='https://github.com/mrflogs/ICLR24',
    licence='none',
    idea=(
        'A Gaussian for each class over image features, with one shared covariance, beside the cosines with the class '
        'names; nothing is trained.'
    ),
    trains='nothing; a Gaussian for each class is fitted',
    published='ImageNet, RN50: 60.6, 61.2, 61.7, 62.5, 63.8 with 1, 2, 4, 8, 16 shots',
    contract='support, search; for classes without images those of others; cosine + Gaussians',
    notes="""
Base-to-new generalisation has its own estimates: `dict(type='vlm_dense.GDACLIP', ridge=False)` for the base classes,
and `dict(type='vlm_dense.GDACLIPUnseen', alpha=...)` for new ones, with the images of the base classes as `support`
and the alpha found on the base classes.

Published by the authors: ImageNet, RN50: 60.64, 61.23, 61.71, 62.46, 63.82 with 1, 2, 4, 8, 16 shots, alpha
searched on the test images.
""",
)


_CHUNK = 4096  # images of a search with logits computed at once


class _Discriminant(Prepared, CosineHead):
    """``scale * q T + alpha * (q W + b)`` of the unit feature q; W and b come from means and a precision."""

    def __init__(self, class_names: Sequence[str], image_tower: ImageTower, passes: int, alpha: float):
        super().__init__()
        if passes < 1:
            raise ConfigError(f'{type(self).__name__}: passes must be at least 1, found {passes}.')
        self.class_names = tuple(class_names)
        self.passes = passes
        self.register_buffer('weight', torch.zeros(len(self.class_names), image_tower.embed_dim))
        self.register_buffer('bias', torch.zeros(len(self.class_names)))
        self.register_buffer('alpha', torch.tensor(float(alpha)))

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K), or (B, V, K)."""
        self.check_prepared()
        clip, own = super().logits(features, text, logit_scale), self.discriminant(features.global_)
        return clip + self.alpha * (own if clip.dim() == 2 else own[:, None])

    def discriminant(self, features: Tensor) -> Tensor:
        """``q W + b``, (B, K), of features (B, D)."""
        return F.normalize(features, dim=-1) @ self.weight.T + self.bias

    def _set(self, means: Tensor, precision: Tensor) -> None:
        """Bayes classifier of Gaussians with these means (K, D), one precision (D, D) and equal priors."""
        self.weight.copy_(means @ precision)
        self.bias.copy_(-(self.weight * means).sum(dim=1) / 2 - torch.tensor(float(len(means))).log())
        self.prepared = True


@MODELS.register_module()
class GDACLIP(_Discriminant):
    """``scale * q T + alpha * (q W + b)`` (section 3): the Bayes classifier of Gaussians beside CLIP's.

    q is the unit feature of the image and T the unit class embeddings. Each augmented copy of a labelled image is a
    vector of its own. With the class means mu, W is ``P mu`` and b is ``log(1 / K) - mu P mu / 2``. The precision P is
    the empirical-Bayes estimate ``D * inverse((N - 1) S + trace(S) I)`` of the covariance S of the N vectors about
    their class means.

    From data: ``support``, the labelled images with the augmentation of training; ``search``, if given, is what alpha
    is searched on. The official code takes the test set instead of it on ImageNet.

    Args:
        class_names, image_tower: The classifier's; give K and D.
        passes: Augmented copies of each image.
        ridge: ``False``: P is the pseudo-inverse of the mean of the classes' covariances, as in the official code for
            base classes; it needs more than D vectors to be stable.
        alpha: Weight of the Gaussians without search.
        alphas: Weights to search.

    Attributes:
        weight, bias: W transposed, (K, D), and b (K,).
        search_accuracy: Percent of the last search's images, float64, one for each of ``alphas``.

    Raises:
        ConfigError: no pass, no weight to search, or nothing was prepared.
        DataError: a class without image, or with one vector where ``ridge`` is off.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        image_tower: ImageTower,
        passes: int = 10,
        ridge: bool = True,
        alpha: float = 0.1,
        alphas: Sequence[float] = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0),
    ):
        super().__init__(class_names, image_tower, passes, alpha)
        if not alphas:
            raise ConfigError('GDACLIP: alphas is empty; leave out the data of the search to keep alpha.')
        self.ridge = ridge
        self.alphas = tuple(alphas)
        self.search_accuracy: Tensor | None = None

    @torch.no_grad()
    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Fit means and precision to ``support`` and search alpha on ``search``."""
        features, labels = zip(*read_passes(model, self.loader(data, 'support'), self.passes), strict=True)
        vectors, labels = F.normalize(torch.cat(features), dim=-1), torch.cat(labels)
        check_classes_present(labels, self.class_names, 'GDACLIP: the support set')
        means = torch.stack([vectors[labels == label].mean(dim=0) for label in range(len(self.class_names))])
        self._set(means, self.precision(vectors, labels, means))
        if 'search' in data:
            self.search(model, data['search'])

    def precision(self, vectors: Tensor, labels: Tensor, means: Tensor) -> Tensor:
        """P (D, D) of N unit vectors (N, D) with labels (N,)."""
        if self.ridge:
            return ridge_precision(covariance(vectors - means[labels]), len(vectors))
        if labels.bincount().min() < 2:
            raise DataError('GDACLIP: the covariance of a class needs two vectors; add images or passes, or set ridge.')
        every = [covariance(vectors[labels == label]) for label in range(len(means))]
        return torch.linalg.pinv(torch.stack(every).mean(dim=0), hermitian=True)

    @torch.no_grad()
    def search(self, model: nn.Module, loader: DataLoader) -> None:
        """Set alpha to the first that classifies most images of a data set.

        Args:
            model: The classifier, in eval mode.
            loader: The labelled images.
        """
        features, labels = read_features(model, loader)
        text, before, right = model.text_side.class_embeddings(), self.alpha.clone(), []
        for alpha in self.alphas:
            self.alpha.fill_(alpha)
            chosen = [model.logits(ImageFeatures(global_=part), text).argmax(dim=1) for part in features.split(_CHUNK)]
            right.append(int((torch.cat(chosen) == labels).sum()))
        self.search_accuracy = 100 * torch.tensor(right, dtype=torch.float64) / len(labels)
        self.alpha.copy_(torch.tensor(self.alphas[right.index(max(right))]) if max(right) else before)
        print_log(
            f'GDACLIP: alpha {self.alpha:.4g} classifies {self.search_accuracy.max():.2f} % of {len(labels)} images, '
            f'most of {len(right)} values.',
            logger='current',
        )


@MODELS.register_module()
class GDACLIPUnseen(_Discriminant):
    """GDA-CLIP for classes without images, from the images of others (base-to-new generalisation).

    A class is described by the vectors of the images that are nearest to its class embedding t: their mean, with
    copies of t among them, and their second moment about t, of which the precision is estimated as in
    :class:`GDACLIP`. The classes share the mean of the precisions.

    From data: ``support``, images of any classes with the augmentation of training; labels are not read.

    Args:
        class_names, image_tower: The classifier's; give K and D.
        alpha: Weight of the Gaussians, that of the classes with images.
        passes: Augmented copies of each image.
        neighbours: Nearest vectors of a class, k.
        copies: Of t in the mean.

    Raises:
        ConfigError: no pass, fewer than two neighbours, a prompt with variants, or nothing was prepared.
        DataError: fewer vectors than neighbours.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        image_tower: ImageTower,
        alpha: float = 0.1,
        passes: int = 10,
        neighbours: int = 64,
        copies: int = 16,
    ):
        super().__init__(class_names, image_tower, passes, alpha)
        if neighbours < 2 or copies < 0:
            raise ConfigError(
                f'GDACLIPUnseen: expected at least 2 neighbours and 0 copies, found {neighbours} and {copies}.'
            )
        self.neighbours, self.copies = neighbours, copies

    @torch.no_grad()
    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Describe the classes by the images of ``support``."""
        if model.text_prompt.num_variants is not None:
            raise ConfigError(f'GDACLIPUnseen reads one text a class, {type(model.text_prompt).__name__} gives more.')
        passes = read_passes(model, self.loader(data, 'support'), self.passes, labelled=False)
        vectors = F.normalize(torch.cat([features for features, _ in passes]), dim=-1)
        if len(vectors) < self.neighbours:
            raise DataError(
                f'GDACLIPUnseen: {self.neighbours} neighbours were asked for, the support set has {len(vectors)} '
                'vectors. Lower neighbours, or add images or passes.'
            )
        text = model.text_side.classifier_weights()
        self._set(*self.describe(text, vectors))

    def describe(self, text: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Means (K, D) and precision (D, D) of classes (K, D), by the nearest of the vectors (N, D)."""
        near = [vectors[rows] for rows in self.nearest(text, vectors)]
        means = [(x.sum(dim=0) + self.copies * t) / (len(x) + self.copies) for x, t in zip(near, text, strict=True)]
        every = [ridge_precision(moment(x - t), len(x)) for x, t in zip(near, text, strict=True)]
        return torch.stack(means), torch.stack(every).mean(dim=0)

    def nearest(self, text: Tensor, vectors: Tensor) -> Tensor:
        """Indices (K, k) of the vectors (N, D) that are nearest to each class (K, D)."""
        return (text @ vectors.T).topk(self.neighbours, dim=1).indices


def moment(vectors: Tensor) -> Tensor:
    """Second moment (D, D) of vectors (N, D) with the denominator N - 1."""
    return vectors.T @ vectors / (len(vectors) - 1)


def covariance(vectors: Tensor) -> Tensor:
    """Unbiased covariance (D, D) of vectors (N, D)."""
    return moment(vectors - vectors.mean(dim=0))


def ridge_precision(covariance: Tensor, count: int) -> Tensor:
    """Estimate of the precision (D, D) from the covariance (D, D) of ``count`` vectors (section 3.2)."""
    dim = len(covariance)
    ridge = covariance.trace() * torch.eye(dim, device=covariance.device)
    return dim * torch.linalg.pinv((count - 1) * covariance + ridge, hermitian=True)
