"""Training of a bundled CLIP with the text tower, or the embeddings, of another one.

A small tower learns colours at once and shapes only after very many images. It learns them several times sooner when
what it has to meet stands still: the class embeddings of a model that is already trained, averaged over wordings, and
that model's embeddings of images and of their patches.
"""

from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.pos_embed import get_2d_sincos_pos_embed
from torch import Tensor, nn

from tiny_clip.pretraining import CaptionPretraining
from vlm_dense.clip.image_tower import ImageTower
from vlm_dense.clip.loading import load_clip
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.clip.tower import CLIPTower
from vlm_dense.datasets import scenes
from vlm_dense.registry import MODELS


def tower_around(visual: nn.Module, arch: str, **options) -> ImageTower:
    """Image tower that computes with the parameters (not copies) of open_clip's own."""
    tower = CLIPTower(arch, **options)
    for name, module in tower.named_modules():
        for key, _ in list(module.named_parameters(recurse=False)):
            module.register_parameter(key, visual.get_parameter(f'{name}.{key}'.lstrip('.')))
    return tower


@torch.no_grad()
def begin_with(trunk: nn.Module, vit: nn.Module) -> None:
    """Give a ViT of timm the patches, positions and blocks of open_clip's, of the same sizes.

    The norm in front of the blocks, which timm's has not, becomes part of patches and positions: its mean and scale
    exactly, its division by the deviation as the average over some drawn scenes.
    """
    images = [scenes.draw_scene(f'{i}', (64, 64), (0, 5), 'source').image[..., ::-1].copy() for i in range(16)]
    images = (torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() - 115) / 68
    norm, positions = vit.ln_pre, vit.positional_embedding[1:]
    tokens = vit.conv1(images).flatten(2).mT + positions
    scale = norm.weight / tokens.std(-1).mean()
    kernel, bias = vit.conv1.weight, torch.zeros(len(norm.weight)) if vit.conv1.bias is None else vit.conv1.bias
    trunk.patch_embed.proj.weight.copy_((kernel - kernel.mean(0)) * scale[:, None, None, None])
    trunk.patch_embed.proj.bias.copy_((bias - bias.mean()) * scale + norm.bias)
    trunk.pos_embed.copy_((positions - positions.mean(-1, keepdim=True)) * scale)
    for own, block in zip(trunk.blocks, vit.transformer.resblocks, strict=True):
        own.attn.qkv.weight.copy_(block.attn.in_proj_weight)
        own.attn.qkv.bias.copy_(block.attn.in_proj_bias)
        pairs = (
            (own.norm1, block.ln_1),
            (own.attn.proj, block.attn.out_proj),
            (own.norm2, block.ln_2),
            (own.mlp.fc1, block.mlp.c_fc),
            (own.mlp.fc2, block.mlp.c_proj),
        )
        for new, old in pairs:
            new.load_state_dict(old.state_dict())


@MODELS.register_module()
class CaptionDistillation(CaptionPretraining):
    """An image tower that learns to fit the frozen text tower of a bundled model.

    The positions of a ViT start as two-dimensional sine and cosine waves. What enters is as in
    :class:`CaptionPretraining`: images, and captions of what is in them.

    Args:
        arch: Bundled name of the model that learns.
        teacher: Bundled model that gives the text tower, which the export holds, and image embeddings to meet.
        teacher_weight: Weight of 1 - cos(image embedding, the teacher's).
        patch_weight: Weight of the mean over patches of 1 - cos(dense feature, the teacher's value feature), averaged
            over the area of the patch.
        scale: Inverse temperature of the losses on captions.
        pretrained: File of this model that ``pretrain_clip.py`` wrote before, to go on with; its text tower is kept.
        bfloat16, data_preprocessor: As in :class:`CaptionPretraining`.
    """

    own_text = False
    """Whether the text tower is trained as well."""

    def __init__(
        self,
        arch: str,
        teacher: str = 'tiny-rn',
        teacher_weight: float = 1.0,
        patch_weight: float = 0.0,
        scale: float = 50.0,
        pretrained: str | None = None,
        bfloat16: bool = True,
        data_preprocessor: dict | None = None,
    ) -> None:
        super().__init__(arch, bfloat16=bfloat16, data_preprocessor=data_preprocessor)
        self.teacher_weight, self.patch_weight, self.scale = teacher_weight, patch_weight, scale
        visual = self.clip.visual
        if not self.own_text:
            self.take_weights(load_clip(teacher, 'bundled'), text_only=True)
            self.clip.requires_grad_(False)
            visual.requires_grad_(True)
        # in lists: neither saved nor trained, or all they hold belongs to ``clip``
        self.teacher = [CLIPTower(teacher, 'bundled', frozen=True)]
        self.tower = [tower_around(visual, arch)]
        with torch.no_grad():
            if hasattr(visual, 'class_embedding'):
                width, side = visual.positional_embedding.shape[1], visual.grid_size[0]
                waves = get_2d_sincos_pos_embed(width, side, cls_token=True)
                visual.positional_embedding.copy_(0.5 * torch.from_numpy(waves))
            if pretrained is not None:
                self.take_weights(load_clip(arch, pretrained))
            text = TextTower(teacher, 'bundled')
            self.classifiers = {
                name: torch.stack(
                    [F.normalize(F.normalize(text(text.tokenize(c)), dim=-1).mean(0), dim=-1) for c in v.captions]
                )
                for name, v in self.vocabularies.items()
            }

    def loss(self, inputs: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Losses of images (B, 3, H, W) in which the pairs ``present`` (B, 64) are."""
        features = ('global', 'dense') if self.patch_weight else ('global',)
        found = self.tower[0].encode(inputs, features)
        image = F.normalize(found.global_.float(), dim=-1)
        with torch.no_grad():
            goal = self.teacher[0].encode(inputs, ('global', 'value') if self.patch_weight else features)
        losses = self.caption_losses(image, present)
        losses['loss_teacher'] = self.teacher_weight * _distance(image, goal.global_.float(), 1)
        if self.patch_weight:
            value = F.adaptive_avg_pool2d(F.normalize(goal.value.float(), dim=1), found.dense.shape[2:])
            losses['loss_patches'] = self.patch_weight * _distance(found.dense.float(), value, 1)
        return losses

    def caption_losses(self, image: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Losses of unit embeddings (B, D) of images in which the pairs ``present`` (B, 64) are."""
        losses = {}
        for name, vocabulary in self.vocabularies.items():
            log_p = (self.scale * image @ self.classifiers[name].T).log_softmax(-1)
            weight = 1.0 if name in ('pair', 'shape') else 0.5 if name == 'colour' else 0.1
            losses[f'loss_{name}'] = -weight * (vocabulary.targets(present) * log_p).sum(1).mean()
        return losses


@MODELS.register_module()
class SigmoidDistillation(CaptionDistillation):
    """A CLIP with a sigmoid loss, both towers of which learn.

    Each caption is true or false of each image, by a sigmoid of ``exp(logit_scale) * cosine + logit_bias`` (SigLIP,
    arXiv 2303.15343, Sec. 3.2), summed over the captions. The embeddings of captions are drawn to the teacher's as
    those of images are.

    Args:
        start: Bundled ViT with blocks of the same size; the image tower begins with them, and with its patches and
            positions.
        sigmoid_weight: Weight of the sigmoid loss.
        **options: See :class:`CaptionDistillation`; ``scale`` is not used.
    """

    own_text = True

    def __init__(self, arch: str, start: str | None = None, sigmoid_weight: float = 0.1, **options):
        super().__init__(arch, **options)
        self.sigmoid_weight = sigmoid_weight
        if start is not None:
            begin_with(self.clip.visual.trunk, load_clip(start, 'bundled').visual)

    def caption_losses(self, image: Tensor, present: Tensor) -> dict[str, Tensor]:
        """Losses of unit embeddings (B, D) of images in which the pairs ``present`` (B, 64) are."""
        clip, vocabularies = self.clip, self.vocabularies
        with torch.no_grad():
            clip.logit_scale.clamp_(max=self.MAX_LOGIT_SCALE)
        text = self.encode_captions([random.choice(c) for v in vocabularies.values() for c in v.captions]).float()
        goal = torch.cat(list(self.classifiers.values()))
        true = torch.cat([v.targets(present) > 0 for v in vocabularies.values()], dim=1)
        with torch.autocast('cpu', enabled=False):
            logits = clip.logit_scale.exp() * image @ text.T + clip.logit_bias
        return dict(
            loss_sigmoid=-self.sigmoid_weight * F.logsigmoid(torch.where(true, logits, -logits)).sum(1).mean(),
            loss_text=_distance(text, goal, 1),
        )


def _distance(found: Tensor, goal: Tensor, dim: int) -> Tensor:
    return (1 - F.cosine_similarity(found, goal, dim=dim)).mean()
