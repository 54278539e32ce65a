"""Linear probe: logistic regression on frozen image features, its strength searched.

"Learning Transferable Visual Models From Natural Language Supervision", ICML 2021, appendix A.3; the few-shot protocol
of "Learning to Prompt for Vision-Language Models", IJCV 2022.

A logistic regression on the frozen, unnormalised image features is the reference point of few-shot adaptation. The
strength of its L2 penalty is searched on a few validation images, first on a coarse grid and then by bisection. It
does not use the class names.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.contract.preparation import Prepared, check_classes_present, read_features
from vlm_dense.contract.roles import Head
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='Linear probe',
    title='Learning Transferable Visual Models From Natural Language Supervision',
    venue='ICML 2021',
    link='https://arxiv.org/abs/2103.00020',
    code='https://github.com/KaiyangZhou/CoOp',
    licence='MIT',
    idea='Logistic regression on features of the frozen image tower.',
    trains='a linear classifier on features',
    contract='support, search; linear; fitted',
)


VALIDATION_SHOTS = 4
SOLVERS = ('sklearn', 'exact')


@MODELS.register_module()
class LinearProbe(Prepared, Head, BaseModule):
    """``A f + b`` of the feature f as the tower gives it, without normalisation.

    A and b minimise ``|A|^2 / 2 + C * sum of cross-entropies`` over the labelled images. C is searched: the first best
    of a grid on the images of ``search``, then bisections of the interval from a tenth to ten times of it, in which
    ties go to the lower end. The classifier of the last bisection is kept.

    From data: ``support``, the labelled images, without augmentation; ``search``, the validation images.

    Args:
        class_names, image_tower: The classifier's; give K and D.
        solver: 'sklearn' is the recipe: L-BFGS of scikit-learn, which stops far from the optimum where C is large, so
            that published figures depend on it. 'exact' goes to the optimum and needs no scikit-learn.
        strengths: Values of C to try first.
        steps: Number of bisections around the best of them; 0 keeps it.
        shots: Draw this number of images of each class from ``support``, and at most 4 from ``search``, as the official
            code does. Default: take all images of both.
        seed: Seed of the draw that ``shots`` asks for.

    Attributes:
        weight, bias: A (K, D) and b (K,), float32.
        strength: C, scalar.
        grid_accuracy: Shares of the last search, one for each of ``strengths``.
        bisections: (left, right, C) of each step of the last search: shares at both ends, and the chosen C.

    Raises:
        ConfigError: an unknown solver, scikit-learn is not there, or nothing was fitted.
    """

    text = False

    def __init__(
        self,
        class_names: Sequence[str],
        image_tower: ImageTower,
        solver: str = 'sklearn',
        strengths: Sequence[float] = (1e6, 1e4, 1e2, 1.0, 1e-2, 1e-4, 1e-6),
        steps: int = 8,
        shots: int | None = None,
        seed: int = 1,
    ):
        super().__init__()
        if solver not in SOLVERS:
            raise ConfigError(f'LinearProbe: solver must be one of {SOLVERS}, found {solver!r}.')
        if not strengths or min(strengths) <= 0 or (shots is not None and shots < 1):
            raise ConfigError(
                f'LinearProbe: strengths must be one or more numbers above 0 and shots at least 1, found '
                f'{tuple(strengths)} and {shots}.'
            )
        if solver == 'sklearn':
            _logistic_regression()
        self.class_names, self.solver = tuple(class_names), solver
        self.strengths, self.steps, self.shots, self.seed = tuple(strengths), steps, shots, seed
        self.register_buffer('weight', torch.zeros(len(self.class_names), image_tower.embed_dim))
        self.register_buffer('bias', torch.zeros(len(self.class_names)))
        self.register_buffer('strength', torch.zeros((), dtype=torch.float64))
        self.grid_accuracy: list[float] = []
        self.bisections: list[tuple[float, float, float]] = []

    def logits(self, features: ImageFeatures, text: None, logit_scale: Tensor) -> Tensor:
        """(B, K)."""
        self.check_prepared()
        return F.linear(features.global_, self.weight, self.bias)

    # --- the search -----------------------------------------------------------------------------------------------

    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Fit on ``support``, with the strength that is best on ``search``.

        Raises:
            DataError: a class without image, or with fewer than ``shots``.
        """
        train, val = (read_features(model, self.loader(data, name)) for name in ('support', 'search'))
        if self.shots is not None:
            chosen = self.draw(train[1], val[1])
            train, val = ((x[rows], y[rows]) for (x, y), rows in zip((train, val), chosen, strict=True))
        check_classes_present(train[1], self.class_names, 'LinearProbe: the support set')
        fits: dict[float, tuple[Tensor, Tensor]] = {}

        def accuracy(strength: float) -> float:
            if strength not in fits:
                fits[strength] = self.fit(*train, strength)
            weight, bias = fits[strength]
            return ((val[0].double() @ weight.T + bias).argmax(dim=1) == val[1]).double().mean().item()

        self.grid_accuracy = [accuracy(strength) for strength in self.strengths]
        chosen = self.strengths[self.grid_accuracy.index(max(self.grid_accuracy))]
        left, right, self.bisections = 1e-1 * chosen, 1e1 * chosen, []
        for _ in range(self.steps):
            at_left, at_right = accuracy(left), accuracy(right)
            chosen = right if at_left < at_right else left
            self.bisections.append((at_left, at_right, chosen))
            middle = 10 ** (0.5 * (math.log10(right) + math.log10(left)))
            left, right = (middle, right) if at_left < at_right else (left, middle)
        reached = accuracy(chosen)
        self.weight.copy_(fits[chosen][0])
        self.bias.copy_(fits[chosen][1])
        self.strength.fill_(chosen)
        self.prepared = True
        print_log(
            f'LinearProbe: fitted to {len(train[1])} images; C = {chosen:.4g} classifies {100 * reached:.2f} % of '
            f'{len(val[1])} images of the search.',
            logger='current',
        )

    def draw(self, train_labels: Tensor, val_labels: Tensor) -> tuple[Tensor, Tensor]:
        """Indices of ``shots`` images of each class and of min(shots, 4), by one stream of numpy's legacy generator."""
        stream = np.random.RandomState(self.seed)
        drawn = []
        for labels, shots in ((train_labels, self.shots), (val_labels, min(self.shots, VALIDATION_SHOTS))):
            rows = []
            for label, name in enumerate(self.class_names):
                of_class = np.flatnonzero((labels == label).cpu().numpy())
                if len(of_class) < shots:
                    raise DataError(
                        f'LinearProbe draws {shots} images of each class, {name!r} has {len(of_class)}. Lower shots, '
                        'or give few-shot data and leave shots out.'
                    )
                rows += stream.choice(of_class, shots, replace=False).tolist()
            drawn.append(torch.tensor(rows, device=labels.device))
        return tuple(drawn)

    # --- the fit --------------------------------------------------------------------------------------------------

    def fit(self, features: Tensor, labels: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """A (K, D) and b (K,), float64.

        Args:
            features: (N, D).
            labels: int64 (N,), with every class.
            strength: C.
        """
        features, classes = features.double(), len(self.class_names)
        if classes == 1:
            return features.new_zeros(1, features.shape[1]), features.new_zeros(1)
        if self.solver == 'exact':
            return minimise(features, labels, classes, strength)
        fitted = _logistic_regression()(C=strength, max_iter=1000)
        fitted.fit(features.cpu().numpy(), labels.cpu().numpy())
        weight, bias = torch.from_numpy(fitted.coef_).to(features), torch.from_numpy(fitted.intercept_).to(features)
        if classes == 2:  # scikit-learn gives the second class against the first
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        return weight, bias


def _logistic_regression() -> type:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ConfigError(
            "LinearProbe: solver='sklearn' needs scikit-learn, which is not installed. Install it with "
            "pip install 'vlm-dense[probe]', or take solver='exact', which goes to the optimum."
        ) from error
    return LogisticRegression


def minimise(
    features: Tensor, labels: Tensor, classes: int, strength: float, tolerance: float = 1e-12
) -> tuple[Tensor, Tensor]:
    """Weights of a logistic regression, by Newton's method with conjugate gradients.

    Minimises ``|A|^2 / (2 C N) + mean cross-entropy``. The Hessian is only ever multiplied with, so memory grows as
    the weights do. The rows of A, and b, sum to zero.

    Args:
        features: Float64 (N, D).
        labels: int64 (N,).
        classes: K.
        strength: C.
        tolerance: Of the greatest entry of the gradient; relative to 1 / (C N) where that is above 1.

    Returns:
        A (K, D) and b (K,).
    """
    count, dim = features.shape
    inputs = torch.cat([features, features.new_ones(count, 1)], dim=1)
    ridge = torch.full_like(inputs[0], 1 / (strength * count))
    ridge[dim] = 0
    target = F.one_hot(labels, classes).to(inputs)
    weights = inputs.new_zeros(classes, dim + 1)

    def objective(w: Tensor) -> Tensor:
        return F.cross_entropy(inputs @ w.T, labels) + 0.5 * (ridge * w * w).sum()

    value = objective(weights)
    for _ in range(200):
        shares = (inputs @ weights.T).softmax(dim=1)
        gradient = (shares - target).T @ inputs / count + ridge * weights
        if gradient.abs().max() <= tolerance * max(1, float(ridge[0])):
            break
        direction = _solve(inputs, shares, ridge, gradient)
        slope, length = (gradient * direction).sum(), 1.0
        while length > 1e-10 and objective(weights + length * direction) > value + 1e-4 * length * slope:
            length /= 2
        if length <= 1e-10:  # rounding is all that is left
            break
        weights = weights + length * direction
        value = objective(weights)
    return weights[:, :dim], weights[:, dim]


def _solve(inputs: Tensor, shares: Tensor, ridge: Tensor, gradient: Tensor) -> Tensor:
    """Newton's direction by conjugate gradients, the more exact the smaller the gradient."""
    solution, rest = torch.zeros_like(gradient), -gradient
    towards, size = rest.clone(), (rest * rest).sum()
    goal = min(0.25, float(size) ** 0.25) * size.sqrt()
    for _ in range(1000):
        moved = inputs @ towards.T
        moved = shares * (moved - (shares * moved).sum(dim=1, keepdim=True))
        product = moved.T @ inputs / len(inputs) + ridge * towards
        step = size / (towards * product).sum()
        solution, rest = solution + step * towards, rest - step * product
        before, size = size, (rest * rest).sum()
        if size.sqrt() <= goal:
            break
        towards = rest + size / before * towards
    return solution
