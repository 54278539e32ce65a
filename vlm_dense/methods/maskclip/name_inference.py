"""From MaskCLIP's maps of windows to labels: refinement on the pixels, or a decision on the cosines of all names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor

from vlm_dense.errors import ConfigError
from vlm_dense.segmentation.inference import BatchedInference, own_sizes
from vlm_dense.segmentation.name_decision import NameDecision
from vlm_dense.segmentation.pamr import PAMR
from vlm_dense.segmentation.strip_maps import Piece, StripMaps
from vlm_dense.vocabulary.class_names import Aliases

NAMES_AT_ONCE = 8
"""Maps of names that are refined on the pixels at a time."""


def owners_of(classes: Sequence[Aliases]) -> list[int]:
    """The class of each name."""
    return [k for k, names in enumerate(classes) for _ in names]


class NameInference(BatchedInference):
    """:class:`BatchedInference` of maps that are cosines or probabilities of names.

    Attributes:
        pamr: Refines the probabilities at image size; None: nothing does.
        decision: Makes labels of the cosines of all names in original size; None: the largest map wins.
        decode_head: With ``class_names``, the names of each class, and ``probabilities``.
    """

    pamr: PAMR | None = None
    decision: NameDecision | None = None

    def predict(self, inputs: Tensor, data_samples: list | None = None) -> list:
        """As in :class:`BatchedInference`; with ``decision``, ``seg_logits`` are the scores of the classes."""
        if self.decision is not None:
            return self._decide(inputs, data_samples)
        return super().predict(inputs, data_samples)

    def probabilities(self, scores: Tensor) -> Tensor:
        """Probabilities of the classes (K, H, W) that sum to one, of the ``seg_logits`` of a sample."""
        if self.decision is not None:
            return scores / scores.sum(dim=0)
        return scores if self.pamr is not None else self.decode_head.probabilities(scores[None])[0]

    def _decide(self, inputs: Tensor, data_samples: list | None) -> list:
        samples = [SegDataSample() for _ in inputs] if data_samples is None else data_samples
        order, images = own_sizes(inputs, samples)
        for n, pieces in self._maps(images, self._window_map):
            sample, classes = samples[order[n]], self.decode_head.class_names
            if self._keep_logits():
                scores, labels = self._decided(pieces, classes, images[n], sample.metainfo)
                sample.set_data(dict(seg_logits=PixelData(data=scores)))
            else:
                labels = self._decided_labels(pieces, classes, images[n], sample.metainfo)
            sample.set_data(dict(pred_sem_seg=PixelData(data=labels[None])))
        return samples

    def _decided(
        self, pieces: list[Piece], classes: tuple[Aliases, ...], image: Tensor, meta: dict
    ) -> tuple[Tensor, Tensor]:
        """Scores (K, H, W) and labels (H, W) in original size of an image (3, h, w)."""
        return self.decision(self.decision.refine(self.name_maps(pieces, meta), image), owners_of(classes))

    def _decided_labels(self, pieces: list[Piece], classes: tuple[Aliases, ...], image: Tensor, meta: dict) -> Tensor:
        """The labels of :meth:`_decided`, without all maps at full size wherever that can be."""
        if self.decision.pamr is None:
            return self.decision.labels(StripMaps(*self._steps(pieces, meta), self.align_corners), owners_of(classes))
        if self.decision.area_thresh is not None:
            return self._decided(pieces, classes, image, meta)[1]
        refine, number = self.decision.refinement(image, self.original_size(pieces, meta)), len(pieces[0][1])
        groups = (
            refine(self.name_maps([(box, maps[start : start + NAMES_AT_ONCE]) for box, maps in pieces], meta))
            for start in range(0, number, NAMES_AT_ONCE)
        )
        return self.decision.refined_labels(groups, owners_of(classes))

    def name_maps(self, pieces: list[Piece], meta: dict) -> Tensor:
        """Cosines (N, H, W) of all names in original size."""
        pieces, meta = self._steps(pieces, meta)
        return self._original_size(self._join(pieces), meta)

    @staticmethod
    def original_size(pieces: list[Piece], meta: dict) -> tuple[int, int]:
        """(H, W) of the picture that windows are from."""
        return tuple(meta.get('ori_shape', (pieces[-1][0][1], pieces[-1][0][3]))[:2])

    def _steps(self, pieces: list[Piece], meta: dict) -> tuple[list[Piece], dict]:
        """Windows and metainfo; a whole image goes to its original size at once, unless by ``two_steps``.

        A window goes to its own size first, also where one window is the image, as in the official ``forward_slide``.
        """
        plain = not meta.get('flip') and 'padding_size' not in meta and 'img_padding_size' not in meta
        if self._mode() == 'slide' or self.decision.two_steps or not plain:
            return pieces, meta
        height, width = self.original_size(pieces, meta)
        return [((0, height, 0, width), pieces[0][1])], {}

    def strip_maps(self, inputs: Tensor, data_samples: list) -> list[StripMaps]:
        """As in :class:`BatchedInference`.

        Raises:
            ConfigError: with ``decision``, which needs all maps of an image.
        """
        if self.decision is not None:
            raise ConfigError('MaskCLIP: decision cannot be averaged over augmented images. Leave out one of the two.')
        return super().strip_maps(inputs, data_samples)

    def _refinement(self, image: Tensor) -> Callable[[Tensor], Tensor] | None:
        return None if self.pamr is None else self.pamr(image)

    def _whole(self, images: Tensor) -> Tensor:
        if self.pamr is None:
            return super()._whole(images)
        maps = self._maps(list(images), self._window_map)
        return torch.stack([self._join(pieces, self._refinement(images[i])) for i, pieces in maps])
