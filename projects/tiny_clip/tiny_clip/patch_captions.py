"""Second stage of tiny-vit: its patch values learn, from captions alone, what lies where.

The class token of a small ViT may know every object while the values of its patches, which MaskCLIP reads, name none:
nothing in the captions of whole images asks them to. Two things ask: a patch may only mean what the caption of its
image names, or the background; and images are mosaics of small ones with a caption each, so a patch cannot
borrow the answer from elsewhere. The first is learning from bags of instances, the second a use of captions that any
pair of an image and a text allows. Neither masks nor boxes enter.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from mmengine.dataset import BaseDataset
from torch import Tensor
from torch.utils.data import Dataset

from tiny_clip.distillation import CaptionDistillation, tower_around
from vlm_dense.clip.loading import load_clip
from vlm_dense.registry import DATASETS, MODELS


@DATASETS.register_module()
class CaptionedMosaic(Dataset):
    """Four captioned images side by side and one above the other.

    Args:
        dataset: Data set of images (3, h, w) with ``data_samples`` (64,), as :class:`PackCaptioned` gives them.

    Returns:
        Items with ``inputs`` (3, 2h, 2w) and ``data_samples`` (4, 64), row by row.
    """

    def __init__(self, dataset: dict | BaseDataset):
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    def __len__(self) -> int:
        return len(self.dataset) // 4

    def __getitem__(self, index: int) -> dict:
        parts = [self.dataset[4 * index + i] for i in range(4)]
        rows = [torch.cat([part['inputs'] for part in parts[i : i + 2]], dim=2) for i in (0, 2)]
        return dict(inputs=torch.cat(rows, dim=1), data_samples=torch.stack([part['data_samples'] for part in parts]))


@DATASETS.register_module()
class BlockwiseDataset(Dataset):
    """Data sets in turn, ``block`` items of each, so that a batch holds images of one kind and size.

    Args:
        datasets: Data sets of equal length, a multiple of ``block``.
        block: Batch size.
    """

    def __init__(self, datasets: list[dict], block: int):
        self.datasets, self.block = [DATASETS.build(d) for d in datasets], block

    def __len__(self) -> int:
        return len(self.datasets) * min(map(len, self.datasets))

    def __getitem__(self, index: int) -> dict:
        block, place = divmod(index, self.block)
        turn, which = divmod(block, len(self.datasets))
        return self.datasets[which][turn * self.block + place]


@MODELS.register_module()
class PatchCaptions(CaptionDistillation):
    """A trained ViT: its patch values learn to fit the frozen text tower.

    With p(i, k) the softmax over the 64 pairs and the background, or the 8 shapes and the background, at patch i, and
    S the classes that the caption of an image, or of a mosaic's part, names::

        loss_patch = - mean over i of log (p(i, background) + sum over k in S of p(i, k))
                     - mean over k in S of log (mean of the largest ``area`` of p(., k))
                     - mean of the largest quarter of log p(., background)

    Args:
        arch, teacher, scale, bfloat16, data_preprocessor: As in :class:`CaptionDistillation`.
        pretrained: File that ``pretrain_clip.py`` wrote in the first stage, or ``'bundled'``.
        area: Share of the patches that an object covers at least.
        several_weight: Weight of the losses on the class token where an image may hold several objects.
    """

    def __init__(
        self,
        arch: str,
        pretrained: str,
        teacher: str = 'tiny-rn',
        scale: float = 50.0,
        area: float = 1 / 6,
        several_weight: float = 0.3,
        bfloat16: bool = True,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(arch, teacher, 0.0, scale=scale, bfloat16=bfloat16, data_preprocessor=data_preprocessor)
        self.area, self.several_weight = area, several_weight
        self.take_weights(load_clip(arch, pretrained))
        self.tower = [tower_around(self.clip.visual, arch, pos_mode='bicubic')]
        background = self.classifiers['pair'][-1:]
        self.patch_classifiers = dict(
            pair=self.classifiers['pair'], shape=torch.cat([self.classifiers['shape'], background])
        )

    def loss(self, inputs: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Losses of images (B, 3, H, W) that hold the pairs (B, 64), or of mosaics and their parts' (B, 4, 64)."""
        features = self.tower[0].encode(inputs, ('global', 'value'))
        image = F.normalize(features.global_.float(), dim=-1)
        value = F.normalize(features.value.float(), dim=1).permute(0, 2, 3, 1)
        if present.dim() == 3:
            height, width = (n // 2 for n in value.shape[1:3])
            value = value.unflatten(2, (2, width)).unflatten(1, (2, height)).transpose(2, 3).flatten(0, 2)
            whole, present = present.amax(1), present.flatten(0, 1)
        else:
            whole = present
        weight = 1.0 if (whole.sum(1) <= 1).all() else self.several_weight
        losses = {name: weight * loss for name, loss in self.caption_losses(image, whole).items()}
        return losses | self._patch_losses(value.flatten(1, 2), present)

    def _patch_losses(self, value: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Losses of unit patch values (B, N, D) of images that hold the pairs (B, 64)."""
        area = max(round(self.area * value.shape[1] / present.sum(1).max().clamp(min=1).item()), 1)
        losses = {}
        for name, classifier in self.patch_classifiers.items():
            named = (present @ self.vocabularies[name].truth.to(present) > 0)[:, : len(classifier) - 1]
            allowed = F.pad(named, (0, 1), value=True)
            log_p = (self.scale * value @ classifier.T).log_softmax(-1)
            one_of = log_p.masked_fill(~allowed[:, None], -math.inf).logsumexp(-1).mean()
            somewhere = log_p[..., :-1].topk(area, dim=1).values.logsumexp(1) - math.log(area)
            somewhere = somewhere[named].sum() / named.sum().clamp(min=1)
            background = log_p[..., -1].topk(value.shape[1] // 4, dim=1).values.mean()
            losses[f'loss_patch_{name}'] = -(one_of + somewhere + background)
        return losses
