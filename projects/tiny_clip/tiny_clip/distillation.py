"""Training of a bundled CLIP with the text tower of another one.

A small ViT learns colours at once and shapes only after very many images. It learns them several times sooner when
what it has to meet stands still: the class embeddings of a model that is already trained, averaged over wordings, and
that model's image embeddings.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.pos_embed import get_2d_sincos_pos_embed
from torch import Tensor

from tiny_clip.pretraining import CaptionPretraining
from vlm_dense.clip.loading import load_clip
from vlm_dense.registry import MODELS


@MODELS.register_module()
class CaptionDistillation(CaptionPretraining):
    """An image tower that learns to fit the frozen text tower of a bundled model.

    The positions start as two-dimensional sine and cosine waves. What enters is as in :class:`CaptionPretraining`:
    images, and captions of what is in them.

    Args:
        arch: ``'tiny-vit'``.
        teacher: Bundled model that gives the text tower, which the export holds, and image embeddings to meet.
        teacher_weight: Weight of 1 - cos(image embedding, the teacher's).
        scale: Inverse temperature of the losses on captions.
        bfloat16, data_preprocessor: As in :class:`CaptionPretraining`.
    """

    def __init__(
        self,
        arch: str,
        teacher: str = 'tiny-rn',
        teacher_weight: float = 1.0,
        scale: float = 50.0,
        bfloat16: bool = True,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(arch, bfloat16=bfloat16, data_preprocessor=data_preprocessor)
        self.teacher_weight, self.scale = teacher_weight, scale
        model = load_clip(teacher, 'bundled').requires_grad_(False)
        self.take_weights(model, text_only=True)
        self.teacher = [model.visual]  # in a list: neither saved nor trained
        self.clip.requires_grad_(False)
        visual = self.clip.visual.requires_grad_(True)
        waves = get_2d_sincos_pos_embed(visual.positional_embedding.shape[1], visual.grid_size[0], cls_token=True)
        with torch.no_grad():
            visual.positional_embedding.copy_(0.5 * torch.from_numpy(waves))
            self.classifiers = {
                name: torch.stack([F.normalize(self.encode_captions(c).mean(0), dim=-1) for c in vocabulary.captions])
                for name, vocabulary in self.vocabularies.items()
            }

    def loss(self, inputs: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Losses of images (B, 3, H, W) in which the pairs ``present`` (B, 64) are."""
        image = F.normalize(self.clip.visual(inputs).float(), dim=-1)
        with torch.no_grad():
            goal = F.normalize(self.teacher[0](inputs).float(), dim=-1)
        distance = (1 - (image * goal).sum(1)).mean()
        return dict(self.caption_losses(image, present), loss_teacher=self.teacher_weight * distance)

    def caption_losses(self, image: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Losses of unit embeddings (B, D) of images in which the pairs ``present`` (B, 64) are."""
        losses = {}
        for name, vocabulary in self.vocabularies.items():
            log_p = (self.scale * image @ self.classifiers[name].T).log_softmax(-1)
            weight = 1.0 if name in ('pair', 'shape') else 0.5 if name == 'colour' else 0.1
            losses[f'loss_{name}'] = -weight * (vocabulary.targets(present) * log_p).sum(1).mean()
        return losses
