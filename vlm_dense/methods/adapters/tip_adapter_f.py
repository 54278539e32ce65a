"""Tip-Adapter-F: the cache of Tip-Adapter, its keys trained.

The cache of Tip-Adapter is the starting point of a linear layer without bias. Only this layer, the keys, is trained;
labels, class embeddings and both towers stay frozen. A few epochs are enough, and the two scalars are searched again
at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vlm_dense.methods.adapters.tip_adapter import TipAdapter
from vlm_dense.registry import MODELS

PAPER = dict(
    name='Tip-Adapter-F',
    title='Tip-Adapter: Training-free Adaption of CLIP for Few-shot Classification',
    venue='ECCV 2022',
    link='https://arxiv.org/abs/2207.09519',
    code='https://github.com/gaopengcuhk/Tip-Adapter',
    licence='none',
    idea='Tip-Adapter with trained keys.',
    trains='the keys of the cache',
    published='ImageNet, RN50: 61.1, 61.7, 62.5, 64.0, 65.5 with 1, 2, 4, 8, 16 shots',
    contract='support, search; cosine + trained cache; CE',
    variants={
        'tip_adapter_f_on-test': dict(
            trains='as tip_adapter_f, epoch, alpha and beta chosen on test images as in the official code',
        ),
    },
)


@MODELS.register_module()
class TipAdapterF(TipAdapter):
    """Tip-Adapter with the keys as weights of a linear layer, which begins as the cache (section 3.2).

    Trained with the alpha and beta that were given; after training both are searched again on ``search``, with the keys
    of the best epoch. The official code chooses the epoch on the test set and reports the better of the accuracies
    before and after the search; here ``CheckpointHook(save_best=...)`` chooses it by validation and ``PrepareHook``
    finishes.

    The keys are not normalised again, as in the official code.

    Args:
        **kwargs: See :class:`TipAdapter`. ``pretrained`` may also hold ``trained``, the file of the official code's
            trained keys (N, D).
    """

    def __init__(self, class_names, image_tower, pretrained: Mapping[str, str] | None = None, **kwargs: Any):
        super().__init__(class_names, image_tower, pretrained=pretrained, **kwargs)
        if pretrained is not None and 'trained' in pretrained:
            with torch.no_grad():
                self.keys.copy_(self._read(pretrained['trained'], self.keys))

    def _make_keys(self, keys: Tensor) -> None:
        self.keys = nn.Parameter(keys)

    def prepare(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Fill the cache from ``support``; errors as in :meth:`TipAdapter.prepare`."""
        self.fill(model, self.loader(data, 'support'))

    def finish(self, model: nn.Module, data: Mapping[str, DataLoader]) -> None:
        """Search alpha and beta on ``search``."""
        self.search(model, self.loader(data, 'search'))
