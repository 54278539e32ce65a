"""Self-supervised training of an image encoder on images without labels: two views of an image belong together.

"A Simple Framework for Contrastive Learning of Visual Representations" (SimCLR), ICML 2020, as SVL-Adapter (BMVC 2022,
section 3.1) uses it.
"""

from __future__ import annotations

import numpy as np
import timm
import torch
import torch.nn.functional as F
from mmcv.transforms import BaseTransform
from mmengine import dist
from mmengine.model import BaseModel
from torch import Tensor, nn

from vlm_dense.classification.transforms import TorchvisionTransforms
from vlm_dense.clip.building import initialised
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import MODELS, TRANSFORMS, unknown_name

_ITSELF = 1e5  # taken off the similarity of a row with itself


def build_encoder(name: str, pretrained: bool = False) -> nn.Module:
    """An image encoder of timm without its classifier: images (B, 3, H, W) to features (B, C).

    Args:
        name: timm's, as 'resnet50'; the state dict is that of torchvision's without ``fc``.
        pretrained: Load timm's weights.

    Raises:
        ConfigError: no such encoder.
    """
    if not timm.is_model(name):
        raise ConfigError(unknown_name(name, 'encoders of timm', timm.list_models()))
    return initialised(timm.create_model(name, pretrained=pretrained, num_classes=0))


def nt_xent(first: Tensor, second: Tensor, temperature: float = 0.5) -> Tensor:
    """Normalised temperature-scaled cross-entropy (SimCLR, Eq. 1) of two views (B, D) of B images; a scalar."""
    rows = F.normalize(torch.cat([first, second]), dim=-1)
    similarity = rows @ rows.T / temperature - _ITSELF * torch.eye(len(rows), device=rows.device)
    return F.cross_entropy(similarity, torch.arange(len(rows), device=rows.device).roll(len(first)))


def triplet_loss(first: Tensor, second: Tensor, negatives: Tensor, margin: float = 0.3, kind: str = 'cosine') -> Tensor:
    """Views of one image shall be nearer to each other than to a row drawn at random; a scalar.

    Args:
        first, second: Anchors and positives (B, D).
        negatives: int64 (B,), rows of ``first`` and ``second`` one after the other; the anchor itself counts as 0.
        margin: See torch.
        kind: Distance, 'cosine' for ``(1 - cos) / 2`` or 'l2'.
    """
    other = torch.cat([first, second])[negatives]
    if kind == 'l2':
        losses = F.triplet_margin_loss(first, second, other, margin, reduction='none')
    else:
        near, far = ((1 - F.cosine_similarity(first, x, dim=-1)) / 2 for x in (second, other))
        losses = (margin + near - far).clamp(min=0)
    return losses.masked_fill(negatives == torch.arange(len(first), device=first.device), 0).mean()


def gathered(rows: Tensor) -> Tensor:
    """Rows (B, D) of all processes, with gradient; each must have as many."""
    if dist.get_world_size() == 1:
        return rows
    return torch.cat(torch.distributed.nn.functional.all_gather(rows.contiguous()))


@MODELS.register_module()
class ContrastivePretraining(BaseModel):
    """An encoder and a projector that are trained so that two views of an image agree.

    ``loss_nt_xent`` and, with ``triplet``, ``loss_triplet`` are those of the images of all processes together. Where
    the encoder has batch norms, ``sync_bn = 'torch'`` in the config makes several GPUs equal to one.

    Args:
        encoder: Name in timm, see :func:`build_encoder`.
        pretrained: Begin with timm's weights, as the paper does with those of ImageNet.
        hidden_channels, out_channels: Of the projector, which is thrown away afterwards.
        temperature: tau.
        triplet: 'cosine' or 'l2' adds :func:`triplet_loss` with negatives drawn at random.
        margin: Of the triplets.
        data_preprocessor: ``vlm_dense.ClsDataPreprocessor``. Take that of the classifier in which the encoder will be.

    Raises:
        ConfigError: no such encoder or kind of triplets, or a temperature that is not positive.
    """

    def __init__(
        self,
        encoder: str = 'resnet50',
        pretrained: bool = False,
        hidden_channels: int = 512,
        out_channels: int = 128,
        temperature: float = 0.5,
        triplet: str | None = None,
        margin: float = 0.3,
        data_preprocessor: dict | None = None,
        init_cfg: dict | None = None,
    ):
        super().__init__(data_preprocessor, init_cfg)
        if triplet not in (None, 'cosine', 'l2') or temperature <= 0:
            raise ConfigError(
                "ContrastivePretraining: triplet is None, 'cosine' or 'l2' and temperature positive, found "
                f'{triplet!r} and {temperature}.'
            )
        self.enc = build_encoder(encoder, pretrained)
        self.projector = nn.Sequential(
            nn.Linear(self.enc.num_features, hidden_channels), nn.ReLU(), nn.Linear(hidden_channels, out_channels)
        )
        self.temperature, self.triplet, self.margin = temperature, triplet, margin

    def forward(self, inputs: Tensor, data_samples: list | None = None, mode: str = 'tensor'):
        """Losses of two views (B, 2, 3, H, W) of B images, or the encoder's features of images (B, 3, H, W).

        Args:
            inputs: Normalised.
            data_samples: Not read.
            mode: ``'loss'`` or ``'tensor'``.

        Raises:
            DataError: images that are not two views, or fewer than two images.
        """
        if mode == 'tensor':
            return self.enc(inputs)
        if inputs.dim() != 5 or inputs.shape[1] != 2:
            raise DataError(
                f'ContrastivePretraining: expected two views of each image, (B, 2, 3, H, W), found '
                f'{tuple(inputs.shape)}. Add vlm_dense.RandomViews to the pipeline.'
            )
        first, second = self.projector(self.enc(inputs.transpose(0, 1).flatten(0, 1))).float().chunk(2)
        first, second = gathered(first), gathered(second)
        if len(first) < 2:
            raise DataError(
                'ContrastivePretraining: a batch of one image has nothing to tell it from. Use a larger one.'
            )
        losses = dict(loss_nt_xent=nt_xent(first, second, self.temperature))
        if self.triplet is not None:
            negatives = torch.randint(2 * len(first), (len(first),)).to(first.device)
            dist.broadcast(negatives)
            losses['loss_triplet'] = triplet_loss(first, second, negatives, self.margin, self.triplet)
        return losses


@TRANSFORMS.register_module()
class RandomViews(BaseTransform):
    """Several random views of an image; ``img`` becomes (N, H, W, 3).

    Args:
        transforms: See :class:`~vlm_dense.classification.TorchvisionTransforms`; all views must come out in one size.
        num_views: N.
    """

    def __init__(self, transforms: list[dict], num_views: int = 2):
        self.change, self.num_views = TorchvisionTransforms(transforms), num_views

    def transform(self, results: dict) -> dict:
        """Make the views."""
        views = [self.change(dict(img=results['img']))['img'] for _ in range(self.num_views)]
        if len({view.shape for view in views}) > 1:
            raise ConfigError(
                'RandomViews: views have the sizes '
                f'{sorted({view.shape[:2] for view in views})}; end with one size, as RandomResizedCrop does.'
            )
        results['img'] = np.stack(views)
        results['img_shape'] = views[0].shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.change}, num_views={self.num_views})'
