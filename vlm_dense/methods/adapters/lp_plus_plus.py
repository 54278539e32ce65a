"""LP++: a linear probe that begins with the text, descended in full batches at rates that follow from the data.

A linear probe ignores the text; LP++ takes as weight of a class the sum of a free visual prototype and the class
embedding times a learned factor of that class. Step sizes follow from Lipschitz constants of the loss on the given
features, and start values from the means of the classes. Nothing is searched but the best epoch, and only features
are needed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.contract.preparation import Prepared, check_classes_present, read_features
from vlm_dense.contract.roles import Head
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='LP++',
    title='LP++: A Surprisingly Strong Linear Probe for Few-Shot CLIP',
    venue='CVPR 2024',
    link='https://arxiv.org/abs/2404.02285',
    code='https://github.com/FereshteShakeri/FewShot-CLIP-Strong-Baseline',
    licence='none',
    idea=(
        'A linear probe of visual prototypes plus the class embeddings, each with a factor of its own. '
        'It is fitted by full-batch descent at rates that follow from the features of the labelled images, so that '
        'nothing is searched.'
    ),
    trains='a linear classifier and a factor of each class embedding, fitted before the test',
    contract='support, search; linear + factors of the text; fitted',
    notes="""
The gradient of the factors is never cleared in the official code, and is not here; `fresh_gradient=True` clears it.
The authors report means over ten draws of the images: `tools/compare.py --seeds 1 2 3 4 5 6 7 8 9 10`.

The factors begin at 250 times the mean cosine of images and their class embeddings. Published CLIPs have 0.2 to 0.3;
the bundled tiny-vit has about -0.5, so here the text starts with the wrong sign (a warning is logged) and only the
images can correct it: enough at 16 shots, not at 4, where the result stays below zero-shot.
""",
)


_START = 250  # times the mean cosine of images and their class: where alpha begins


@MODELS.register_module()
class LPPlusPlus(Prepared, Head, BaseModule):
    """``q W^T + b + alpha * (q T)``: class k has the weight ``w_k + alpha_k t_k`` (section 3).

    q is the unit feature of the image and T the unit class embeddings; alpha takes the place of the temperature. W, b
    and alpha minimise the cross-entropy of the labelled images by gradient descent on all of them at once. Rates and
    the beginning follow from their features, so nothing is searched; of all steps the last one of best validation
    accuracy is kept.

    The official code never clears the gradient of alpha, which so is the sum over all steps, and moves alpha by it
    every tenth step. The default does the same. Where the mean cosine is negative, which no published CLIP has but the
    bundled ones do, alpha begins negative and a warning says so.

    From data: ``support``, the labelled images, in one pass; ``search``, if given, the validation images.

    Args:
        class_names, image_tower: The classifier's; give K and D.
        epochs: Steps.
        alpha_every: Steps from one change of alpha to the next.
        momentum: Of the descent of W and b.
        fresh_gradient: Clear the gradient of alpha in each step.

    Attributes:
        weight, bias, alpha: W (K, D), b (K,) and alpha (K,).
        losses: Of the last fit, before each step.
        accuracies: Percent of its validation images after each step; empty without any.
        best_epoch: The step that was kept, from 0.

    Raises:
        ConfigError: counts below 1, a prompt with several texts a class, or nothing was fitted.
        DataError: a class without image.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        image_tower: ImageTower,
        epochs: int = 300,
        alpha_every: int = 10,
        momentum: float = 0.9,
        fresh_gradient: bool = False,
    ):
        super().__init__()
        if min(epochs, alpha_every) < 1:
            raise ConfigError(
                f'LPPlusPlus: epochs and alpha_every must be at least 1, found {epochs} and {alpha_every}.'
            )
        self.class_names = tuple(class_names)
        self.epochs, self.alpha_every, self.momentum = epochs, alpha_every, momentum
        self.fresh_gradient = fresh_gradient
        self.register_buffer('weight', torch.zeros(len(self.class_names), image_tower.embed_dim))
        self.register_buffer('bias', torch.zeros(len(self.class_names)))
        self.register_buffer('alpha', torch.zeros(len(self.class_names)))

    def logits(self, features: ImageFeatures, text: Tensor, logit_scale: Tensor) -> Tensor:
        """(B, K)."""
        self.check_prepared()
        return scores(F.normalize(features.global_, dim=-1), text, *self.buffers())

    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Fit to ``support`` and choose the step on ``search``."""
        images, labels = read_features(model, self.loader(data, 'support'))
        check_classes_present(labels, self.class_names, 'LPPlusPlus: the support set')
        text = model.text_side.classifier_weights().detach()
        if text.dim() != 2:
            raise ConfigError(f'LPPlusPlus reads one text a class, {type(model.text_prompt).__name__} gives more.')
        images, validation = F.normalize(images, dim=-1), None
        if 'search' in data:
            found, truth = read_features(model, data['search'])
            validation = F.normalize(found, dim=-1), truth
        self.begin(images, labels, text)
        self.fit(images, labels, text, validation)

    @torch.no_grad()
    def begin(self, images: Tensor, labels: Tensor, text: Tensor) -> None:
        """Class sums, a random bias, and one alpha for all classes, of unit features (N, D) and labels (N,)."""
        self.weight.zero_().index_add_(0, labels, images)
        nn.init.uniform_(self.bias, -(images.shape[1] ** -0.5), images.shape[1] ** -0.5)
        means = self.weight / labels.bincount(minlength=len(self.weight))[:, None]
        own = (means * text).sum(dim=1).mean().item()
        self.alpha.fill_(_START * own)
        if own < 0:
            print_log(
                f'LPPlusPlus: images and the texts of their classes have a mean cosine of {own:.2f}, so alpha begins '
                f'at {_START * own:.0f} and the text speaks against each class. The method counts on positive cosines, '
                'as published CLIPs have them; with few images the result can be worse than zero-shot.',
                logger='current',
                level=logging.WARNING,
            )

    def fit(
        self, images: Tensor, labels: Tensor, text: Tensor, validation: tuple[Tensor, Tensor] | None = None
    ) -> None:
        """Descend from where the buffers are, and keep the best step.

        Args:
            images, labels: Unit features (N, D) and classes (N,).
            text: Unit class embeddings (K, D).
            validation: The same of other images; ``None`` keeps the last step.
        """
        self.losses, self.accuracies, best = [], [], None
        for epoch, loss in enumerate(self.descend(images, labels, text)):
            self.losses.append(loss)
            if validation is not None:
                right = scores(validation[0], text, *self.buffers()).argmax(dim=1) == validation[1]
                self.accuracies.append(100 * right.double().mean().item())
            if validation is None or self.accuracies[-1] >= max(self.accuracies):
                best = epoch, [value.clone() for value in self.buffers()]
        self.best_epoch, values = best
        for buffer, value in zip(self.buffers(), values, strict=True):
            buffer.copy_(value)
        self.prepared = True
        on = f', best of {len(validation[1])} images with {max(self.accuracies):.2f} %' if validation else ''
        print_log(f'LPPlusPlus: step {self.best_epoch + 1} of {self.epochs}{on}.', logger='current')

    def descend(self, images: Tensor, labels: Tensor, text: Tensor) -> Iterator[float]:
        """Change the buffers step by step; yields the loss before each step."""
        weight, bias, alpha = (value.clone().requires_grad_() for value in self.buffers())
        rate, alpha_rate = rates(images, text)
        optimizer = torch.optim.SGD([weight, bias], lr=rate, momentum=self.momentum)
        for step in range(1, self.epochs + 1):
            with torch.enable_grad():
                loss = F.cross_entropy(scores(images, text, weight, bias, alpha), labels)
            optimizer.zero_grad()
            if self.fresh_gradient:
                alpha.grad = None
            loss.backward()
            optimizer.step()
            if step % self.alpha_every == 0:
                alpha.data -= alpha_rate * alpha.grad
            for buffer, value in zip(self.buffers(), (weight, bias, alpha), strict=True):
                buffer.copy_(value.detach())
            yield loss.item()


def scores(images: Tensor, text: Tensor, weight: Tensor, bias: Tensor, alpha: Tensor) -> Tensor:
    """Logits (B, K) of unit features (B, D) and class embeddings (K, D) or (B, K, D)."""
    cosines = images @ text.T if text.dim() == 2 else torch.einsum('bd,bkd->bk', images, text)
    return images @ weight.T + bias + alpha * cosines


def rates(images: Tensor, text: Tensor) -> tuple[float, float]:
    """Learning rates of W and b, and of alpha, by Lipschitz constants of the loss (section 3.2).

    Args:
        images: Unit features (N, D) of the labelled images.
        text: Unit class embeddings (K, D).
    """
    gram = images.T @ images if len(images) > images.shape[1] else images @ images.T
    spread = (images @ text.T).square().sum(dim=0).max()
    return 4 * len(images) / torch.linalg.eigvalsh(gram)[-1].item(), len(images) / (4 * spread.item())
