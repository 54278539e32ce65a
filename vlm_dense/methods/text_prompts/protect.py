"""ProTeCt: prompts with predictions that agree along a tree of classes.

Tuned prompts are often right at a leaf of a class tree and wrong at its parent. ProTeCt trains any prompt, such as
that of CoOp or MaPLe, on random label sets that are cut from the tree, and adds a loss at each inner node.
Consistency is measured by HCA, all nodes from the root to the leaf right, and MTA, the mean accuracy over 25 cuts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.dist import all_reduce, broadcast, get_world_size
from torch import Tensor

from vlm_dense.classification.taxonomy import Taxonomy
from vlm_dense.contract.roles import Loss, Step, labels_of
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

PAPER = dict(
    name='ProTeCt',
    title='ProTeCt: Prompt Tuning for Taxonomic Open Set Classification',
    venue='CVPR 2024',
    link='https://arxiv.org/abs/2306.02240',
    code='https://github.com/gina9726/ProTeCt',
    licence='MIT',
    idea=(
        'Losses along a tree of classes, on top of any learned prompt: over a label set that a random cut of the tree '
        'gives, and at each parent over its children. They make predictions agree from level to level.'
    ),
    trains='the context vectors of CoOp or MaPLe, along a tree of classes',
    published=(
        'ViT-B/16, 16 shots, leaf / HCA / MTA: CIFAR-100 72.9 / 56.9 / 87.7, SUN397 74.6 / 62.9 / 83.5, ImageNet 69.9 '
        '/ 37.7 / 88.6'
    ),
    contract='taxonomy; sub-lists; (nodes, D); tree cut + node losses; metrics HCA, MTA',
    notes="""
- The model's `class_names` are all nodes of the tree, `Taxonomy(taxonomy, classes).nodes`; labels count the leaves.
- `vlm_dense.TaxonomyMetric` gives the accuracy at the leaves (`top1`), the share of images that are right at every
  level (`HCA`) and the mean over cuts (`MTA`).
- With `beta=0` the cut is always at the leaves: with `weight=0` that is the plain cross-entropy.
- The official code steps its scheduler within the batch loop although its period counts epochs; here the rate changes
  once an epoch.
- Trees of the paper's data (CIFAR-100, SUN397, ImageNet's WordNet) are not in the package: give `taxonomy` as parent
  -> children. `protect_30e.py` has the recipe, ViT-B/16 and 16 shots complete it.

| 16 shots, ViT-B/16: leaf / HCA / MTA (published, not run again) | CIFAR-100 | SUN397 | ImageNet |
|---|---|---|---|
| CoOp | 72.88 / 10.04 / 50.64 | 73.82 / 38.28 / 52.99 | 71.23 / 2.99 / 46.98 |
| CoOp + ProTeCt | 72.94 / 56.85 / 87.69 | 74.59 / 62.94 / 83.51 | 69.92 / 37.74 / 88.61 |
""",
)


@MODELS.register_module()
class ProTeCtLoss(Loss):
    """``loss_dtl + weight * loss_ncl``, for any prompt with all nodes of a tree as classes (section 4).

    - dynamic treecut loss, ``loss_dtl``: cross-entropy over the label set of a cut of the tree that is drawn in each
      step. From the root down, each parent is replaced by its children with probability 1 - beta, the root always.
    - node-centric loss, ``loss_ncl``: at each parent above a label of the batch, the cross-entropy over its children,
      a mean over the images below it; then the mean over these parents. Only children: a parent of one costs nothing.

    Labels count the leaves. The model's ``class_names`` are ``Taxonomy(taxonomy, classes).nodes``; only the nodes that
    a step needs are encoded. On several processes the cut is that of the first, and the means are over all images.

    Args:
        taxonomy: Parent -> names of its children, see :class:`~vlm_dense.classification.Taxonomy`.
        classes: Names of the leaves in label order.
        beta: Probability that a parent stays.
        weight: lambda. With 0, ``ncl`` is only reported.

    Raises:
        ConfigError: a tree that is none, or ``beta`` outside of [0, 1].
    """

    def __init__(
        self,
        taxonomy: Mapping[str, Sequence[str]],
        classes: Sequence[str],
        beta: float = 0.1,
        weight: float = 0.5,
    ):
        super().__init__()
        if not 0 <= beta <= 1:
            raise ConfigError(f'ProTeCtLoss: beta is a probability, from 0 to 1, found {beta}.')
        self.tree = Taxonomy(taxonomy, classes)
        self.beta, self.weight = beta, weight
        self._cut: tuple[np.ndarray, np.ndarray] | None = None

    def classes(self, data_samples: list) -> Tensor:
        """The nodes of a new cut, and the children of each parent above a label; places, ascending."""
        labels = labels_of(data_samples, len(self.tree.leaves))
        self._cut = self.tree.cut(self.draw())
        children = {child for parent in self.parents(labels) for child in self.tree.below[parent]}
        return torch.tensor(sorted(children.union(self._cut[0].tolist())), device=labels.device)

    def draw(self) -> list[bool]:
        """For each of the tree's ``inner``, whether the cut goes below it."""
        numbers = torch.rand(len(self.tree.inner))
        broadcast(numbers)
        return (numbers >= self.beta).tolist()

    def parents(self, labels: Tensor) -> list[int]:
        """Places of the nodes above any of the labels (B,), ascending; -1 for the root."""
        return sorted({parent for label in labels.tolist() for parent in (-1, *self.tree.path(label)[:-1])})

    def forward(self, step: Step) -> dict[str, Tensor]:
        """``loss_dtl`` and ``loss_ncl``, or ``ncl``.

        Raises:
            ConfigError: the model's classes are not the nodes of the tree.
        """
        if step.class_names != self.tree.nodes:
            raise ConfigError(
                f'ProTeCtLoss: the model has {len(step.class_names)} classes ({", ".join(step.class_names[:3])}, ...), '
                f'expected the {len(self.tree.nodes)} nodes of the tree ({", ".join(self.tree.nodes[:3])}, ...), '
                'parents before their children. Set class_names of the model to Taxonomy(taxonomy, classes).nodes.'
            )
        labels = labels_of(step.data_samples, len(self.tree.leaves))
        losses = dict(loss_dtl=self.over_cut(step, labels))
        node_centric = self.over_children(step, labels)
        if self.weight == 0:
            return dict(losses, ncl=node_centric.detach())
        return dict(losses, loss_ncl=self.weight * node_centric)

    def over_cut(self, step: Step, labels: Tensor) -> Tensor:
        """Cross-entropy over the label set of the cut."""
        places, mapping = self._cut
        return F.cross_entropy(_of(step, places), torch.from_numpy(mapping).to(labels.device)[labels])

    def over_children(self, step: Step, labels: Tensor) -> Tensor:
        """Mean over parents of the mean over images below of the cross-entropy over the parent's children."""
        paths = [(-1, *self.tree.path(label)) for label in labels.tolist()]
        sums, counts = [step.logits.new_zeros(len(self.tree.inner)) for _ in range(2)]
        for parent in self.parents(labels):
            rows = [i for i, path in enumerate(paths) if parent in path]
            children = self.tree.below[parent]
            wanted = [children.index(paths[i][paths[i].index(parent) + 1]) for i in rows]
            losses = F.cross_entropy(_of(step, children)[rows], labels.new_tensor(wanted), reduction='sum')
            place = self.tree.inner.index(parent)
            sums = sums.index_add(0, labels.new_tensor([place]), losses[None])
            counts[place] = len(rows)
        all_reduce(counts)  # each process sums up its own images, and gradients are averaged over processes
        return get_world_size() * (sums / counts.clamp(min=1)).sum() / (counts > 0).sum()


def _of(step: Step, places: Sequence[int]) -> Tensor:
    """Logits (B, n) of the nodes at these places."""
    columns = torch.searchsorted(step.classes, torch.as_tensor(places, device=step.classes.device))
    return step.logits[:, columns]
