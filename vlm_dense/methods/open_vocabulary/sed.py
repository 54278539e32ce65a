"""SED: a cost volume out of a hierarchical CLIP, lifted step by step; classes that win nowhere are rejected early.

"SED: A Simple Encoder-Decoder for Open-Vocabulary Semantic Segmentation", CVPR 2024, sections 3.2 to 3.4.

The cosines of positions and class names come from a convolutional CLIP, with maps of strides 4, 8 and 16 for detail. A
decoder lifts the cost volume in three steps, each a convolution with a large kernel, attention among the classes, and
fusion with maps of the encoder and with the cost volume itself. Small heads on every step tell which classes win
nowhere; these need not go on, which makes long lists of names several times faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.contract.prompt import TextPrompt
from vlm_dense.errors import ConfigError
from vlm_dense.methods.open_vocabulary.cost_volume import (
    ClassAttention,
    CostVolumeHead,
    CostVolumeSegmentor,
    Up,
    by_classes,
    exporting,
)
from vlm_dense.methods.open_vocabulary.text import ClassNames
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.templates import as_templates

PAPER = dict(
    name='SED',
    title='SED: A Simple Encoder-Decoder for Open-Vocabulary Semantic Segmentation',
    venue='CVPR 2024',
    link='https://arxiv.org/abs/2311.15537',
    code='https://github.com/xb534/SED',
    licence='Apache-2.0',
    idea='A cost volume out of a convolutional CLIP, lifted with its finer maps; classes that win nowhere drop out.',
    trains='decoder; the image tower',
    published='trained on COCO-Stuff, mIoU of A-847 / PC-459: ConvNeXt-B 11.2 / 18.6, ConvNeXt-L 13.7 / 22.1',
    contract='any T, each variant a channel of the cost volume; maps of four strides',
    notes="""
Early rejection works with text guidance and in batches as well, image by image; what the finer steps need is computed
for the classes that are left only. Any tower with maps of strides 4 to 32 does: ConvNeXts, ResNets, FastViTs.
""",
)


@MODELS.register_module()
class TemplateVariantsPrompt(TextPrompt):
    """Hand-written sentences that are not averaged: each template is a variant of the prompt.

    SED, section 3.2. Of several names of a class the unit embeddings are averaged in each template.

    Args:
        class_names: See :class:`TextPrompt`; several names of a class are separated by ``', '``.
        text_tower: See :class:`TextPrompt`.
        templates: P sentences with ``{}`` for the name, or the name of a list, see
            :func:`~vlm_dense.vocabulary.templates.read_templates`.
    """

    separator = ', '

    def __init__(
        self,
        class_names: Sequence[str],
        text_tower: TextTower,
        templates: str | Sequence[str] = 'imagenet80',
        init_cfg: dict | None = None,
    ):
        super().__init__(class_names, text_tower, init_cfg)
        templates = as_templates(templates, 'TemplateVariantsPrompt')
        self.num_variants = len(templates)
        names = [name.split(self.separator) for name in self.class_names]
        self.counts = tuple(map(len, names))
        sentences = [template.format(name) for aliases in names for name in aliases for template in templates]
        self.register_buffer('token_ids', text_tower.tokenize(sentences), persistent=False)

    def forward(
        self, text_tower: TextTower, image_features: Tensor | None = None, classes: Tensor | None = None
    ) -> Tensor:
        """Class embeddings (P, K, D) of unit length, float32."""
        names = F.normalize(text_tower.encode_tokens(self.token_ids).float(), dim=-1).unflatten(
            0, (-1, self.num_variants)
        )
        found = torch.stack([part.mean(dim=0) for part in names.split(self.counts)], dim=1)
        found = F.normalize(found, dim=-1)
        return found if classes is None else found[:, classes]


# --- the gradual fusion decoder, section 3.3 --------------------------------------------------------------------------


class _ChannelNorm(nn.Module):
    """Layer norm over the last axis; of a class of its own, so that it decays as in the release."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, eps=1e-6)


class _LargeKernel(nn.Module):
    """ConvNeXt's block: x + gamma * MLP(norm(depthwise convolution of x))."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = _ChannelNorm(channels)
        self.pwconv1, self.pwconv2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.gamma = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> the same."""
        y = self.norm(self.dwconv(x).movedim(1, -1))
        return x + (self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))).movedim(-1, 1)


class _Step(Up):
    """Large kernel, attention among classes, twice the size with the maps of the image and of the cost volume."""

    def __init__(
        self, in_channels: int, channels: int, image: int, own: int, guidance: int, heads: int, kernel: int, kind: str
    ):
        super().__init__(in_channels, channels, image, own)
        self.cnext = _LargeKernel(in_channels, kernel)
        self.attention = ClassAttention(in_channels, guidance, heads, kind)


@MODELS.register_module()
class SEDHead(CostVolumeHead):
    """The gradual fusion decoder, and the heads of early rejection.

    Args:
        embed_dim: D; the model fills it in.
        stage_channels: Channels of the tower's maps of strides 4, 8, 16 and 32; the model fills them in.
        num_variants: P; the model fills it in.
        hidden_dim: Channels in front of the first step.
        decoder_dims: Channels behind the three steps.
        image_dims: Channels of the maps of the tower of strides 16, 8 and 4, as they are joined.
        cost_dims: Channels of the enlarged cost volume at the three steps.
        num_heads: Attention heads.
        kernel_size: Sides of the kernels.
        text_guidance: Class attention reads the texts, too.
        attention_type: ``'linear'`` or ``'full'``.
        top_k: Early rejection, in evaluation: a class goes on if it is among the ``top_k`` highest at some position.
            ``None``: all go on.
        **kwargs: See :class:`~vlm_dense.methods.open_vocabulary.cost_volume.CostVolumeHead`.
    """

    dropped_logit = -1e4  # of which the sigmoid is 0

    def __init__(
        self,
        embed_dim: int,
        stage_channels: Sequence[int],
        num_variants: int = 1,
        hidden_dim: int = 128,
        decoder_dims: Sequence[int] = (64, 32, 16),
        image_dims: Sequence[int] = (32, 16, 8),
        cost_dims: Sequence[int] = (32, 16, 8),
        num_heads: int = 4,
        kernel_size: Sequence[int] = (9, 9, 9),
        text_guidance: bool = False,
        attention_type: str = 'linear',
        top_k: int | None = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if len(stage_channels) != 4:
            raise ConfigError(
                f'SEDHead joins maps of strides 4, 8, 16 and 32, found {len(stage_channels)} maps. Use a tower with '
                "four stages, as 'convnext_base_w_320' or 'RN50', with all of them in out_indices."
            )
        if top_k is not None and top_k < 1:
            raise ConfigError(f'SEDHead: top_k must be at least 1, or None for no rejection, found {top_k}.')
        self.top_k = top_k
        widths = (hidden_dim, *decoder_dims)
        self.conv1 = nn.Conv2d(num_variants, hidden_dim, 7, padding=3)
        self.decoder_corr_guidance_projection = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(a, b, 2, stride=2), nn.ReLU())
            for a, b in zip((num_variants, *cost_dims[:2]), cost_dims, strict=True)
        )
        self.decoder_guidance_projection = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU())
            for a, b in zip(reversed(list(stage_channels)[:3]), image_dims, strict=True)
        )
        self.text_guidance_projection = None
        if text_guidance:
            self.text_guidance_projection = nn.ModuleList(
                nn.Sequential(nn.Linear(embed_dim, width), nn.ReLU()) for width in widths[:3]
            )
        for i in range(3):
            step = _Step(
                widths[i],
                widths[i + 1],
                image_dims[i],
                cost_dims[i],
                widths[i] if text_guidance else 0,
                num_heads,
                kernel_size[i],
                attention_type,
            )
            self.add_module(f'decoder{i + 1}', step)
            self.add_module(f'head{i}', nn.Conv2d(widths[i], 1, 3, padding=1))
        self.head = nn.Conv2d(widths[3], 1, 3, padding=1)

    @property
    def steps(self) -> list[_Step]:
        """The three steps of the decoder."""
        return [self.decoder1, self.decoder2, self.decoder3]

    @property
    def early_heads(self) -> list[nn.Module]:
        """The heads in front of each step."""
        return [self.head0, self.head1, self.head2]

    def forward(self, features: ImageFeatures, cost: Tensor, text: Tensor) -> Tensor:
        """Logits (B, K, 8 h, 8 w); -10,000 for classes that are rejected.

        Args:
            features: With four ``stages``.
            cost: Cosines (B, P, K, h, w).
            text: One unit vector a class, (B or 1, K, D).
        """
        if self.top_k is None or self.training:
            return self.all_logits(features, cost, text, early=False)[0]
        if exporting():
            raise ConfigError(
                f'SEDHead with top_k={self.top_k} rejects classes by the image, which a fixed graph cannot. Export the '
                'config with decode_head=dict(top_k=None).'
            )
        text = text.expand(len(cost), -1, -1)
        return torch.cat(
            [self._with_rejection(features[i : i + 1], cost[i : i + 1], text[i]) for i in range(len(cost))]
        )

    def all_logits(self, features: ImageFeatures, cost: Tensor, text: Tensor, early: bool = True) -> list[Tensor]:
        """Logits (B, K, ...) of the last head and, if asked for, of the three early ones, from coarse to fine."""
        classes = cost.shape[2]
        x, own = self._embed(cost)
        found = []
        for i in range(3):
            if early:
                found.append(self._early(i, x, classes))
            x, own = self._step(i, x, own, features, text, classes)
        return [self._last(x, classes), *found]

    def _with_rejection(self, features: ImageFeatures, cost: Tensor, text: Tensor) -> Tensor:
        """Logits (1, K, 8 h, 8 w) of one image, for text (K, D)."""
        kept = torch.arange(cost.shape[2], device=cost.device)
        x, own = self._embed(cost)
        for i in range(3):
            alive = self._winners(self._early(i, x, len(kept))[0])
            kept, x, own = kept[alive], x[alive], own[alive]
            x, own = self._step(i, x, own, features, text[None, kept], len(kept))
        logits = self._last(x, len(kept))
        every = logits.new_full((1, cost.shape[2], *logits.shape[2:]), self.dropped_logit)
        return every.index_copy(1, kept, logits)

    def _winners(self, logits: Tensor) -> Tensor:
        """Classes among the ``top_k`` highest of logits (K, h, w) at some position, ascending."""
        return logits.topk(min(self.top_k, len(logits)), dim=0).indices.unique()

    def _embed(self, cost: Tensor) -> tuple[Tensor, Tensor]:
        """The cost volume as maps of classes (B K, C, h, w), and as it is, (B K, P, h, w)."""
        own = cost.transpose(1, 2).flatten(0, 1)
        return by_classes(lambda c, _: self.conv1(c), own, cost.shape[2], self.chunk_size), own

    def _early(self, i: int, x: Tensor, classes: int) -> Tensor:
        """Logits (B, K, h, w) in front of step i; the loss on them trains the head alone."""
        found = self.early_heads[i](x.detach())
        return found.view(-1, classes, *found.shape[2:])

    def _step(
        self, i: int, x: Tensor, own: Tensor, features: ImageFeatures, text: Tensor, classes: int
    ) -> tuple[Tensor, Tensor]:
        """Maps of classes and of the cost volume behind step i."""
        step, chunk = self.steps[i], self.chunk_size
        image = self.decoder_guidance_projection[i](features.stages[2 - i].detach())
        guidance = None if self.text_guidance_projection is None else self.text_guidance_projection[i](text)
        x = by_classes(lambda m, _: step.cnext(m), x, classes, chunk)
        x = step.attention(x, guidance, classes, self.pool, chunk)
        own = self.decoder_corr_guidance_projection[i](own)
        return by_classes(lambda m, k, o: step(m, image, o, k), x, classes, chunk, own), own

    def _last(self, x: Tensor, classes: int) -> Tensor:
        found = self.head(x)
        return found.view(-1, classes, *found.shape[2:])

    def losses(self, logits: Sequence[Tensor], batch_data_samples: list) -> dict[str, Tensor]:
        """``loss_sem_seg_0`` of the last head, ``_1`` to ``_3`` of the early ones, and ``acc_seg``."""
        found: dict[str, Tensor] = {}
        for i, one in enumerate(logits):
            loss, right = self.binary_loss(one, batch_data_samples)
            found[f'loss_sem_seg_{i}'] = loss
            if i == 0:
                found['acc_seg'] = right
        return found


@MODELS.register_module()
class SED(CostVolumeSegmentor):
    """SED.

    Args:
        backbone: A tower with maps of strides 4, 8, 16 and 32: ``vlm_dense.CLIPTower`` of a ConvNeXt, as
            ``arch='convnext_base_w_320'``, or ``vlm_dense.CLIPResNet`` with ``attnpool=True``. What of it is trained,
            its own options say.
        text_encoder: ``vlm_dense.TextTower``, frozen.
        decode_head: ``vlm_dense.SEDHead``.
        **kwargs: See :class:`~vlm_dense.methods.open_vocabulary.cost_volume.CostVolumeSegmentor`.
    """

    default_prompt = dict(type='vlm_dense.TemplateVariantsPrompt')

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict | None = None,
        class_names: ClassNames | None = None,
        clip_resolution: int | Sequence[int] = 768,
        **kwargs: Any,
    ):
        head = dict(type='vlm_dense.SEDHead') | dict(decode_head or {})
        own = dict(class_names=class_names, clip_resolution=clip_resolution)
        super().__init__(backbone, text_encoder, head, **own, **kwargs)
        pool = getattr(self.backbone, 'attnpool', None)
        if pool is not None:  # of a ResNet's attention pool the value path reads the rest only
            for part in (pool.q_proj, pool.k_proj, pool.positional_embedding):
                part.requires_grad_(False)

    def head_options(self) -> dict:
        """Widths of the tower, variants of the prompt."""
        tower = self.backbone
        return dict(embed_dim=tower.embed_dim, stage_channels=tower.out_channels, num_variants=self.num_variants)
