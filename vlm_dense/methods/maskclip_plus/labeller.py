"""MaskCLIP+'s pseudo labels: schedule and labeller, for its segmentor and for any other.

"Extract Free Dense Labels from CLIP", ECCV 2022, section 3.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_dense.datasets.suppress import UNLABELED
from vlm_dense.errors import ClassNamesError, ConfigError, DataError
from vlm_dense.registry import unknown_name

Window = tuple[int, int]
"""First and last iteration, both inclusive and counted from 1; last < 0: without end; first < 0: never."""


class Labeller:
    """Labels unlabelled pixels by a teacher, or later by the network itself.

    Args:
        owner: Name of the module with these options, for messages.
        class_names: Of all K classes, in label order.
        clip_unlabeled_cats: Classes that the teacher chooses from, as labels or names.
        unlabeled_cats: Classes that the network itself chooses from. Default: ``clip_unlabeled_cats``. No label of
            either list may occur in training.
        start_clip_guided: Iterations in which the teacher labels.
        start_self_train: Iterations in which the network labels; the two must not overlap.
        conf_thresh: Pixels with a best value below it get no label; 0: off.
        conf_drops_labeled: Whether ``conf_thresh`` also drops pixels with a label of the data set, as in the official
            code.

    Raises:
        ClassNamesError: a class that does not exist.
        ConfigError: windows that overlap or cannot be, or no class to choose from.
    """

    def __init__(
        self,
        owner: str,
        class_names: Sequence[str],
        clip_unlabeled_cats: Sequence[int | str],
        unlabeled_cats: Sequence[int | str] | None = None,
        start_clip_guided: Window = (1, -1),
        start_self_train: Window = (-1, -1),
        conf_thresh: float = 0.0,
        conf_drops_labeled: bool = True,
    ):
        self.owner, self.class_names = owner, class_names
        self.clip_unlabeled_cats = self._labels_of(clip_unlabeled_cats, 'clip_unlabeled_cats')
        given = self.clip_unlabeled_cats if unlabeled_cats is None else unlabeled_cats
        self.unlabeled_cats = self._labels_of(given, 'unlabeled_cats')
        self.start_clip_guided = self._window('start_clip_guided', start_clip_guided)
        self.start_self_train = self._window('start_self_train', start_self_train)
        self._check_windows()
        self.conf_thresh = conf_thresh
        self.conf_drops_labeled = conf_drops_labeled

    def _labels_of(self, cats: Sequence[int | str], option: str) -> list[int]:
        """Labels of classes given as labels or names."""
        labels = []
        for cat in cats:
            if isinstance(cat, str):
                if cat not in self.class_names:
                    raise ClassNamesError(unknown_name(cat, f'class names, but {option} lists it', self.class_names))
                cat = self.class_names.index(cat)
            if not 0 <= cat < len(self.class_names):
                raise ClassNamesError(
                    f'{self.owner}: {option} lists the label {cat}, but there are {len(self.class_names)} classes.'
                )
            labels.append(cat)
        return labels

    def _window(self, option: str, window: Window) -> tuple[float, float] | None:
        """First and last iteration, or None for never."""
        if len(window) != 2 or window[0] == 0 or 0 <= window[1] < window[0]:
            raise ConfigError(
                f'{self.owner}: {option} must be (first, last) iteration, counted from 1, last=-1 for no end and '
                f'first=-1 for never, found {tuple(window)}.'
            )
        first, last = window
        return None if first < 0 else (first, float('inf') if last < 0 else last)

    def _check_windows(self) -> None:
        clip, own = self.start_clip_guided, self.start_self_train
        if clip is not None and own is not None and clip[0] <= own[1] and own[0] <= clip[1]:
            raise ConfigError(
                f'{self.owner}: start_clip_guided and start_self_train overlap at iteration {max(clip[0], own[0]):g}, '
                'where both would label the same pixels. End the first before the second begins, as in '
                'start_clip_guided=(1, 1999), start_self_train=(2000, -1); (-1, -1) turns one off.'
            )
        for option, window, cats in (
            ('clip_unlabeled_cats', clip, self.clip_unlabeled_cats),
            ('unlabeled_cats', own, self.unlabeled_cats),
        ):
            if window is not None and not cats:
                raise ConfigError(f'{self.owner}: {option} is empty; it must list the classes to choose from.')

    def teaches(self, iteration: int) -> bool:
        """Whether the teacher labels in this iteration, counted from 1."""
        return _inside(iteration, self.start_clip_guided)

    def trains_itself(self, iteration: int) -> bool:
        """Whether the network labels in this iteration, counted from 1."""
        return _inside(iteration, self.start_self_train)

    # --- a batch ----------------------------------------------------------------------------------------------

    def check_leak(self, labels: Tensor, data_samples: list) -> None:
        """Check whether labels (H, W) each, or (B, H, W), hold a class that is to be learned without labels.

        Raises:
            DataError: they do; names the file.
        """
        unseen = sorted({*self.clip_unlabeled_cats, *self.unlabeled_cats})
        for one, sample in zip(labels, data_samples, strict=True):
            leaking = one[torch.isin(one, torch.tensor(unseen, device=one.device))]
            if not len(leaking):
                continue
            label, meta = int(leaking[0]), sample.metainfo
            path = meta.get('seg_map_path') or meta.get('img_path') or 'A sample of the batch'
            raise DataError(
                f'{path} holds the label {label} ({self.class_names[label]}), a class that {self.owner} is to learn '
                f'without labels. Put dict(type="vlm_dense.SuppressLabels", classes={unseen}) behind LoadAnnotations '
                'in the training pipeline, or take the class out of clip_unlabeled_cats and unlabeled_cats.'
            )

    def assign(self, labels: Tensor, cats: Sequence[int], index: Tensor, best: Tensor | None = None) -> Tensor:
        """Label unlabelled pixels.

        Args:
            labels: int64 (..., H, W), negative where there is none.
            cats: The classes to choose from.
            index: int64 (..., H, W), which of them is best.
            best: (..., H, W) its value; not needed without ``conf_thresh``.

        Returns:
            (..., H, W); -1 where no label is sure enough.
        """
        found = torch.where(labels < 0, torch.tensor(cats, device=labels.device)[index], labels)
        if self.conf_thresh > 0:
            unsure = best < self.conf_thresh
            if not self.conf_drops_labeled:
                unsure &= labels < 0
            found = found.masked_fill(unsure, UNLABELED)
        return found


def _inside(iteration: int, window: tuple[float, float] | None) -> bool:
    return window is not None and window[0] <= iteration <= window[1]
