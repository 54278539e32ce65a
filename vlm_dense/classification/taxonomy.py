"""Class names in a tree: its nodes, its cuts, and whether predictions agree from level to level.

"ProTeCt: Prompt Tuning for Taxonomic Open Set Classification", CVPR 2024, sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric

from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import METRICS


class Taxonomy:
    """A tree with classes as leaves.

    Args:
        children: Parent -> names of its children, which may be parents too. ``''`` is the root. Names that are nobody's
            child, and classes that the tree does not name, are children of the root too, after those that it names.
        classes: Names of the leaves in label order.

    Attributes:
        nodes: All names but the root's, each parent before its children, children in the given order.
        leaves: int64 (K,), place of each class in ``nodes``.
        inner: Places of the parents in ``nodes``, ascending, after -1 for the root.
        below: Parent's place -> places of its children.

    Raises:
        ConfigError: a name with two parents, a circle, a class that is a parent, or a leaf that is no class.

    Examples:
        >>> tree = Taxonomy({'round': ['circle', 'ring'], 'pointed': ['star']}, ['circle', 'ring', 'star'])
        >>> [tree.nodes[i] for i in tree.leaves]
        ['circle', 'ring', 'star']
    """

    def __init__(self, children: Mapping[str, Sequence[str]], classes: Sequence[str]):
        parents: dict[str, str] = {}
        for parent, names in children.items():
            for name in names:
                if name in parents or name == parent:
                    raise ConfigError(f'The taxonomy puts {name!r} below {parents.get(name, parent)!r} and {parent!r}.')
                parents[name] = parent
        for name in classes:
            if children.get(name):
                raise ConfigError(f'The class {name!r} is a parent in the taxonomy; only leaves can be classes.')
        others = [name for name in dict.fromkeys((*children, *classes)) if name and name not in parents]
        top = [*children.get('', ()), *others]
        self.nodes: tuple[str, ...] = ()
        self.below: dict[int, list[int]] = {}
        self._path: dict[int, tuple[int, ...]] = {}  # from the root's child down to the node itself
        self._add(-1, top, children, ())
        lost = {*children, *parents} - {*self.nodes, ''}
        strange = [n for i, n in enumerate(self.nodes) if i not in self.below and n not in classes]
        if lost or strange or len(set(classes)) < len(classes):
            raise ConfigError(
                f'The taxonomy does not fit the {len(classes)} classes: in a circle are {sorted(lost)[:3]}, leaves '
                f'that are no class {strange[:3]}. Every leaf must be a class, and every class one leaf.'
            )
        self.leaves = np.array([self.nodes.index(name) for name in classes])
        self.inner = sorted(self.below)

    def _add(self, parent: int, names: Sequence[str], children: Mapping, path: tuple[int, ...]) -> None:
        self.below[parent] = []
        for name in names:
            place = len(self.nodes)
            self.nodes += (name,)
            self.below[parent].append(place)
            self._path[place] = (*path, place)
            if children.get(name):
                self._add(place, children[name], children, self._path[place])

    def path(self, label: int) -> tuple[int, ...]:
        """Places of the nodes from below the root down to a class."""
        return self._path[int(self.leaves[label])]

    def cut(self, keep: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
        """A label set that covers every class once: the nodes where a walk from the root stops.

        Args:
            keep: For each of ``inner``, whether the walk continues to its children; for the root it always does.

        Returns:
            Places (n,) of the label set in ``nodes``, ascending, and for each class (K,) its place in the label set.
        """
        kept = {place for place, on in zip(self.inner, keep, strict=True) if on} | {-1}
        stops = [next(place for place in self.path(k) if place not in kept) for k in range(len(self.leaves))]
        places, mapping = np.unique(stops, return_inverse=True)
        return places, mapping

    def draw_cuts(self, seed: int = 100, each: int = 5, betas: Sequence[float] = (0.9, 0.7, 0.5, 0.3, 0.1)) -> list:
        """Cuts that are drawn with keep bits of probability 1 - beta, ``each`` different ones for each beta.

        A tree that has fewer gives what a thousand draws find.
        """
        draw, cuts = np.random.RandomState(seed), []
        for beta in betas:
            found: dict[tuple, tuple] = {}
            for _ in range(1000):
                cut = self.cut(draw.random_sample(len(self.inner)) >= beta)
                found.setdefault(tuple(cut[0]), cut)
                if len(found) == each:
                    break
            cuts += found.values()
        return cuts


@METRICS.register_module()
class TaxonomyMetric(BaseMetric):
    """Accuracy along a tree, of a model with all its nodes as classes, in percent.

    The data set's metainfo has the leaves as ``classes``, which labels count, and the tree as ``taxonomy``. The model's
    ``class_names`` are ``Taxonomy(taxonomy, classes).nodes``.

    - ``top1``: over the leaves
    - ``HCA``: right at the leaf and, at each of its ancestors, among that ancestor's children
    - ``MTA``: mean of the accuracies over the label sets of drawn cuts, see :meth:`Taxonomy.draw_cuts`

    Args:
        seed: Of the cuts.
        collect_device, prefix: As in mmengine.
    """

    def __init__(self, seed: int = 100, collect_device: str = 'cpu', prefix: str | None = None):
        super().__init__(collect_device, prefix)
        self.seed = seed

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Keep scores (nodes,) and label of each image."""
        for sample in data_samples:
            self.results.append((sample['pred_scores'].cpu().float().numpy(), int(sample['gt_label'])))

    def compute_metrics(self, results: list[tuple[np.ndarray, int]]) -> dict[str, float]:
        """Percentages of all images."""
        meta = self.dataset_meta or {}
        if 'taxonomy' not in meta:
            raise DataError(
                "TaxonomyMetric: the data set's metainfo has no taxonomy. Give it metainfo=dict(taxonomy=...)."
            )
        tree = Taxonomy(meta['taxonomy'], meta['classes'])
        scores, labels = np.stack([s for s, _ in results]), np.array([label for _, label in results])
        if scores.shape[1] != len(tree.nodes):
            raise ConfigError(
                f'TaxonomyMetric: expected a score for each of the {len(tree.nodes)} nodes of the tree, found '
                f'{scores.shape[1]}. Set class_names of the model to all nodes.'
            )
        leaf = tree.leaves[scores[:, tree.leaves].argmax(1)] == tree.leaves[labels]
        best = {parent: np.array(below)[scores[:, below].argmax(1)] for parent, below in tree.below.items()}
        consistent = [
            all(best[parent][i] == child for parent, child in zip((-1, *path), path, strict=False))
            for i, path in enumerate(tree.path(label) for label in labels)
        ]
        over_cuts = [
            (scores[:, places].argmax(1) == mapping[labels]).mean() for places, mapping in tree.draw_cuts(self.seed)
        ]
        return dict(
            top1=100 * float(leaf.mean()),
            HCA=100 * float((leaf & consistent).mean()),
            MTA=100 * float(np.mean(over_cuts)),
        )
