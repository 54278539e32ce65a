"""Unlabelled images, and pseudo-labels of zero-shot CLIP for some of them."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import torch
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import DATASETS as ROOT_DATASETS
from torch import Tensor

from vlm_dense.classification.feature_cache import FeatureDataset
from vlm_dense.classification.few_shot import ChosenImages
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.engine.generators import generators_kept
from vlm_dense.errors import ClassNamesError, ConfigError, DataError, first_of
from vlm_dense.registry import DATASETS, MODELS

_CHUNK = 1024  # images that are compared with the classes at once


def choose_pseudo_labels(probabilities: Tensor, top_k: int, fill: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """The most confident images of each predicted class (UPL, arXiv 2204.03649, section 3.2).

    An image belongs to the class with its greatest probability, which is its confidence. Of images that are equally
    confident the first is taken.

    Args:
        probabilities: (N, K).
        top_k: Images of a class; a class that is predicted for fewer gets these.
        fill: Each class that is predicted for no image takes the image with the greatest probability of it, out of
            those that no such class has taken, which loses its former label (SVL-Adapter). Else it gets none.

    Returns:
        Indices of the chosen images, ascending, their labels, and the probabilities of these; (n,) each.
    """
    confidence, labels = probabilities.max(dim=1)
    chosen: dict[int, int] = {}
    absent = []
    for label in range(probabilities.shape[1]):
        images = (labels == label).nonzero()[:, 0]
        order = confidence[images].argsort(descending=True, stable=True)
        chosen |= dict.fromkeys(images[order[:top_k]].tolist(), label)
        if not len(images):
            absent.append(label)
    if fill:
        left = probabilities.clone()
        for label in absent[: len(left)]:
            image = int(left[:, label].argmax())
            chosen[image] = label
            left[image] = -1
    indices = torch.tensor(sorted(chosen), dtype=torch.int64)
    labels = torch.tensor([chosen[image] for image in indices.tolist()], dtype=torch.int64)
    return indices, labels, probabilities.cpu()[indices, labels]


@torch.no_grad()
def zero_shot_probabilities(model: torch.nn.Module, features: Tensor) -> Tensor:
    """Predictions of a classifier without training.

    Args:
        model: A classifier in eval mode with a head that reads the global feature.
        features: (N, D) of its image tower.

    Returns:
        (N, K), float32.
    """
    text = model.text_side.class_embeddings()
    parts = [model.logits(ImageFeatures(global_=part.to(text.device)), text) for part in features.split(_CHUNK)]
    return torch.cat(parts).softmax(dim=-1)


@DATASETS.register_module()
class PseudoLabelDataset(ChosenImages):
    """The images of another data set that zero-shot CLIP is surest of, under the labels that it gives them.

    Labels that the data set has are not used; the log tells how many of the chosen images they agree with. With
    several labellers, the mean of their probabilities counts. What the labellers see is kept on disk, see
    :class:`FeatureDataset`; they are gone when the data set is built.

    Args:
        dataset: The images, as they are trained with; its ``metainfo['classes']`` are the classes.
        labellers: Each ``dict(model=..., pipeline=...)``: the config of a ``vlm_dense.CLIPClassifier`` in which
            nothing is trained, without ``class_names``, and the pipeline that makes its images.
        top_k: Images of each class, see :func:`choose_pseudo_labels`.
        fill: See :func:`choose_pseudo_labels`.
        cache_dir, batch_size, num_workers: See :class:`FeatureDataset`.

    Attributes:
        labels, confidence: Of the chosen images, int64 and float32 (n,).

    Raises:
        ConfigError: ``top_k`` below 1, no labeller, or one that is trained.
        DataError: fewer images than ``top_k``.
        ClassNamesError: the data set names no classes.
    """

    def __init__(
        self,
        dataset: dict,
        labellers: Sequence[dict],
        top_k: int = 16,
        fill: bool = False,
        cache_dir: str = 'work_dirs/features',
        batch_size: int = 64,
        num_workers: int = 0,
    ):
        if top_k < 1 or not labellers:
            raise ConfigError(
                'PseudoLabelDataset: top_k and the number of labellers must be at least 1, found '
                f'{top_k} and {len(labellers)}.'
            )
        pool = ROOT_DATASETS.build(dataset)
        pool.full_init()
        if len(pool) < top_k:
            raise DataError(
                f'PseudoLabelDataset takes {top_k} images of each class, and {type(pool).__name__} has {len(pool)} '
                'images in all. Add images, or lower top_k.'
            )
        names = pool.metainfo.get('classes')
        if not names:
            raise ClassNamesError(
                f'PseudoLabelDataset: {type(pool).__name__} names no classes. Say what the images may show, with '
                'classes=[...] of the data set.'
            )
        reading = dict(cache_dir=cache_dir, batch_size=batch_size, num_workers=num_workers)
        total = 0
        for labeller in labellers:
            probabilities, truth = self._ask(dataset, names, reading, **labeller)
            total = total + probabilities
        indices, labels, confidence = choose_pseudo_labels(total / len(labellers), top_k, fill)
        super().__init__(pool, indices.tolist())
        self._own(labels=labels, confidence=confidence)
        self._report(top_k, truth)

    @staticmethod
    def _ask(dataset: dict, names: Sequence[str], reading: dict, model: dict, pipeline: list) -> tuple[Tensor, list]:
        """Probabilities (N, K) of a labeller, and the labels that the images have, or ``None``."""
        with generators_kept():
            asked = MODELS.build(dict(copy.deepcopy(model), class_names=list(names))).to(get_device()).eval()
        trained = [name for name, p in asked.named_parameters() if p.requires_grad]
        if trained:
            raise ConfigError(
                f'PseudoLabelDataset: a labeller has {len(trained)} weights that training sets ({trained[0]}, ...). '
                'Labels are given by zero-shot CLIP: take vlm_dense.ZeroShotPrompt and leave out the head.'
            )
        images = FeatureDataset(_with_pipeline(dataset, pipeline), **reading)
        images.full_init()
        images.prepare(asked)
        samples = [images[index] for index in range(len(images))]
        features = torch.stack([sample['inputs']['global_'] for sample in samples])
        truth = [sample['data_samples'].get('gt_label') for sample in samples]
        return zero_shot_probabilities(asked, features).cpu(), truth

    def _report(self, top_k: int, truth: list) -> None:
        names = self.metainfo['classes']
        counts = self.labels.bincount(minlength=len(names)).tolist()
        few = [f'{name} ({count})' for name, count in zip(names, counts, strict=True) if count < top_k]
        if few:
            print_log(
                f'PseudoLabelDataset: {len(few)} of {len(names)} classes have fewer than {top_k} images: '
                f'{first_of(few)}.',
                logger='current',
                level=logging.WARNING,
            )
        known = [truth[index] for index in self.indices]
        right = sum(int(label) == int(t) for label, t in zip(self.labels, known, strict=True) if t is not None)
        count = sum(t is not None for t in known)
        agree = f'; {right} of the {count} labels that the data set has agree' if count else ''
        print_log(f'PseudoLabelDataset: {len(self)} of {len(truth)} images are labelled{agree}.', logger='current')

    def __getitem__(self, index: int):
        found = super().__getitem__(index)
        found['data_samples'].set_label(self.labels[index])
        return found

    def get_data_info(self, index: int) -> dict:
        """Information on the image that is ``index``-th of those chosen, under its new label."""
        return dict(super().get_data_info(index), gt_label=int(self.labels[index]))


def _with_pipeline(dataset: dict, pipeline: list) -> dict:
    """Config of a data set, inside its wrappers, with another pipeline."""
    if 'dataset' in dataset:
        return dict(dataset, dataset=_with_pipeline(dataset['dataset'], pipeline))
    return dict(dataset, pipeline=pipeline)
