"""Base of methods that are fitted to data before use: the caches, probes and searches of frozen features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.contract.roles import labels_of
from vlm_dense.errors import ConfigError, DataError


class Prepared:
    """Mixin of modules that ``vlm_dense.PrepareHook`` fills from data; goes in front of the module class.

    Attributes:
        prepared: Fitted to data, or weights were loaded. :meth:`prepare` sets it.
    """

    prepared = False

    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Fill persistent buffers and parameters; ``model`` is the classifier, in eval mode."""
        raise NotImplementedError

    def check_prepared(self) -> None:
        """Refuse to work without data.

        Raises:
            ConfigError: nothing was prepared or loaded.
        """
        if not self.prepared:
            raise ConfigError(
                f'{type(self).__name__} has not seen its data. Add dict(type="vlm_dense.PrepareHook", data=dict(...)) '
                'to custom_hooks, see the documentation of the class on what it reads, or load a checkpoint.'
            )

    def loader(self, data: Mapping[str, DataLoader], name: str) -> DataLoader:
        """The loader of that name.

        Raises:
            ConfigError: there is none.
        """
        if name not in data:
            raise ConfigError(
                f'{type(self).__name__} reads the data {name!r}; the data of PrepareHook are {sorted(data)}.'
            )
        return data[name]

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        self.prepared = self.prepared or any(key.startswith(prefix) for key in state_dict)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def check_classes_present(labels: Tensor, class_names: Sequence[str], where: str) -> None:
    """Refuse labelled images (N,) that leave classes out; ``where`` begins the message.

    Raises:
        DataError: a class without image.
    """
    absent = sorted(set(range(len(class_names))) - set(labels.tolist()))
    if absent:
        raise DataError(
            f'{where} has no image of {len(absent)} of {len(class_names)} classes: '
            f'{", ".join(class_names[label] for label in absent[:5])}. Add images, or leave these classes out.'
        )


@torch.no_grad()
def read_batches(
    model: nn.Module, loader: DataLoader, labelled: bool = True
) -> Iterator[tuple[ImageFeatures, Tensor | None]]:
    """Features that the head reads, and labels, of a data set, batch by batch.

    Args:
        model: The classifier, in eval mode.
        loader: Of images or of features, not shuffled.
        labelled: Read labels, else there are ``None``, and the images may be of any classes.

    Yields:
        Float32 features of B images, and int64 (B,).

    Raises:
        DataError: no image; where labels are read, other classes than those of the model, or a label that is none.
    """
    if not len(loader.dataset):
        raise DataError(f'{type(loader.dataset).__name__} has no image. Check its split and filters.')
    classes = tuple(getattr(loader.dataset, 'metainfo', {}).get('classes') or model.class_names)
    if labelled and classes != tuple(model.class_names):
        raise DataError(
            f'The {len(classes)} classes {", ".join(classes[:3])}, ... of {type(loader.dataset).__name__} are not the '
            f'{len(model.class_names)} classes {", ".join(model.class_names[:3])}, ... of the model. Prepare it with '
            'images of its own classes.'
        )
    for batch in loader:
        batch = model.data_preprocessor(batch)
        labels = labels_of(batch['data_samples'], len(model.class_names)) if labelled else None
        yield model.image_features(batch['inputs']).float(), labels


def read_passes(
    model: nn.Module, loader: DataLoader, passes: int, labelled: bool = True
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Global features and labels of a data set, in its order, pass by pass; see :func:`read_batches`.

    Args:
        model, loader, labelled: See :func:`read_batches`.
        passes: Number of times that the data are read. Each pass is an epoch: random transforms change from one to the
            next.

    Yields:
        Float32 features (N, D), not normalised, and int64 (N,).
    """
    for number in range(passes):
        if hasattr(loader.dataset, 'set_epoch'):
            loader.dataset.set_epoch(number)
        batches = [(found.global_, label) for found, label in read_batches(model, loader, labelled)]
        features, labels = zip(*batches, strict=True)
        yield torch.cat(features), torch.cat(labels) if labelled else None


def read_features(model: nn.Module, loader: DataLoader, passes: int = 1) -> tuple[Tensor, Tensor]:
    """Mean features over several passes, and labels, see :func:`read_passes`.

    Returns:
        Float32 (N, D), not normalised, and int64 (N,).
    """
    features, labels = zip(*read_passes(model, loader, passes), strict=True)
    return sum(features) / passes, labels[-1]
