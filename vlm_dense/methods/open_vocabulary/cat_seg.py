"""CAT-Seg: a cost volume refined over positions and classes by turns.

"CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation", CVPR 2024, section 3.

The cosines of all positions and class names are a cost volume with a slice for each class. Small transformers refine
it, by turns over positions, guided by features of the image, and over classes, guided by features of the texts; a
decoder with guidance of earlier blocks brings each slice to four times the grid. Nothing depends on the number of
classes, and of CLIP the projections of queries and values are fine-tuned, in both towers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.clip.last_blocks import DenseTokens, LastBlocks
from vlm_dense.clip.projections import freeze_projection, rename_projections, train_projections
from vlm_dense.contract.dense_attention import DenseAttention
from vlm_dense.errors import ConfigError
from vlm_dense.methods.open_vocabulary.cost_volume import (
    ATTENTIONS,
    ClassAttention,
    CostVolumeHead,
    CostVolumeSegmentor,
    Up,
    by_classes,
    exporting,
    joint_linear,
)
from vlm_dense.methods.open_vocabulary.text import ClassNames
from vlm_dense.registry import MODELS

PAPER = dict(
    name='CAT-Seg',
    title='CAT-Seg: Cost Aggregation for Open-Vocabulary Semantic Segmentation',
    venue='CVPR 2024',
    link='https://arxiv.org/abs/2303.11797',
    code='https://github.com/KU-CVLAB/CAT-Seg',
    licence='MIT',
    idea='Cosines of positions and class names as a cost volume, refined over positions and classes by turns.',
    trains='aggregator and decoder; queries and values of both towers',
    published='trained on COCO-Stuff, mIoU of A-847 / PC-459 / VOC-20 with background: ViT-B/16 12.0 / 19.0 / 77.3, '
    'ViT-L/14 16.0 / 23.8 / 82.5',
    contract='any T, each variant a channel of the cost volume; dense features and two earlier maps of a ViT',
    notes="""
The release keeps the token ids of the training's class names and uses them in a later evaluation by other names in the
same process; here embeddings follow from the names of the moment. The last query projection of the image tower gets no
gradient and is frozen. Padding classes are all alike, so their key and value are computed once. Decoder and spatial
aggregation treat each class by itself; without gradient they run on a few classes at a time.
""",
)


@MODELS.register_module()
class CATSegAttention(DenseAttention):
    """The last block with each token attending to itself only, and the class token added to all instead of the token.

    CAT-Seg, the released code.
    """

    def forward(self, last: LastBlocks) -> DenseTokens:
        """Tokens of the patches."""
        told = 'CATSegAttention adds the class token to each patch; another dense attention does without one'
        path = partial(self._path, last.class_token(last.tokens, told))
        return DenseTokens(last.blocks[0](last.tokens, path=path)[:, last.patches], last.grid)

    @staticmethod
    def _path(class_token: Tensor, block: TransformerBlock, x: Tensor) -> Tensor:
        return block.feed_forward(block.scaled(block.output(block.qkv(x)[2])) + class_token)


# --- spatial aggregation, section 3.3 ---------------------------------------------------------------------------------


class _WindowAttention(nn.Module):
    def __init__(self, channels: int, guidance: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels + guidance, channels)
        self.k = nn.Linear(channels + guidance, channels)
        self.v = nn.Linear(channels, channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, y: Tensor, guidance: Tensor, mask: Tensor | None) -> Tensor:
        """Attend in each window.

        Args:
            y: (B, K, windows, tokens, C).
            guidance: (B, 1, windows, tokens, G).
            mask: (windows, 1, tokens, tokens), added to the scores.
        """
        q, k = (joint_linear(layer, y, guidance) for layer in (self.q, self.k))
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(-3, -2) for t in (q, k, self.v(y)))
        if exporting():  # ONNX has this attention for four axes only
            scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            mixed = (scores if mask is None else scores + mask).softmax(dim=-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(mixed.transpose(-3, -2).flatten(-2))


class _MLP(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _SwinBlock(nn.Module):
    def __init__(self, channels: int, guidance: int, heads: int, window: int, shifted: bool):
        super().__init__()
        self.window, self.shifted = window, shifted
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attn = _WindowAttention(channels, guidance, heads)
        self.mlp = _MLP(channels)

    def forward(self, x: Tensor, guidance: Tensor) -> Tensor:
        """Tokens (B, K, h, w, C) refined, with guidance (B, 1, h, w, G)."""
        size, window = x.shape[2:4], self.window
        shift = window // 2 if self.shifted else 0
        if min(size) <= window:
            window, shift = min(size), 0
        if size[0] % window or size[1] % window:
            raise ConfigError(
                f'CATSegHead: a grid of {tuple(size)} positions does not consist of windows of {window} x {window}. '
                'Choose clip_resolution or window_size so that it does.'
            )
        y, mask = self.norm1(x), None
        if shift:
            y, guidance = (t.roll((-shift, -shift), dims=(2, 3)) for t in (y, guidance))
            mask = _shift_mask(size, window, shift, x.device).to(x.dtype)
        y = self.attn(_windows(y, window), _windows(guidance, window), mask)
        y = y.unflatten(3, (window, window)).unflatten(2, (size[0] // window, size[1] // window))
        y = y.transpose(3, 4).flatten(2, 3).flatten(3, 4)
        x = x + (y.roll((shift, shift), dims=(2, 3)) if shift else y)
        return x + self.mlp(self.norm2(x))


def _windows(x: Tensor, window: int) -> Tensor:
    """(B, K, h, w, C) in windows, (B, K, windows, tokens, C)."""
    x = x.unflatten(3, (-1, window)).unflatten(2, (-1, window))
    return x.transpose(3, 4).flatten(2, 3).flatten(3, 4)


def _shift_mask(size: Sequence[int], window: int, shift: int, device: torch.device) -> Tensor:
    """-100 between the tokens of a window that come from different sides of the map, (windows, 1, tokens, tokens)."""
    places = [torch.arange(side, device=device) for side in size]
    rows, columns = ((x >= len(x) - window).int() + (x >= len(x) - shift).int() for x in places)
    region = 3 * rows[:, None] + columns
    region = _windows(region[None, None, ..., None], window)[0, 0, ..., 0]
    return -100.0 * (region[:, None, :, None] != region[:, None, None, :])


class _SwinBlocks(nn.Module):
    def __init__(self, channels: int, guidance: int, heads: int, window: int):
        super().__init__()
        self.guidance_norm = nn.LayerNorm(guidance)
        self.block_1 = _SwinBlock(channels, guidance, heads, window, shifted=False)
        self.block_2 = _SwinBlock(channels, guidance, heads, window, shifted=True)

    def forward(self, x: Tensor, guidance: Tensor, classes: int) -> Tensor:
        """Maps (B K, C, h, w) refined, with guidance (B, G, h, w)."""
        tokens = x.unflatten(0, (-1, classes)).movedim(2, -1)
        guidance = self.guidance_norm(guidance.movedim(1, -1))[:, None]
        tokens = self.block_2(self.block_1(tokens, guidance), guidance)
        return tokens.movedim(-1, 2).flatten(0, 1)


class _Layer(nn.Module):
    def __init__(self, swin_block: nn.Module, attention: nn.Module):
        super().__init__()
        self.swin_block, self.attention = swin_block, attention


# --- the head ---------------------------------------------------------------------------------------------------------


@MODELS.register_module()
class CATSegHead(CostVolumeHead):
    """Aggregator and decoder.

    Args:
        embed_dim: D; the model fills it in.
        stage_channels: Channels of the two maps of the tower; the model fills them in.
        num_variants: P; the model fills it in.
        hidden_dim: C.
        num_layers: Layers, each of spatial and class aggregation.
        num_heads: Attention heads.
        window_size: Side of the windows of spatial aggregation.
        pad_len: Fewer classes are filled up to this number by a learned one; of more, those with the largest cosine
            anywhere in the image go on, and the others get a logit of -100. 0: neither.
        attention_type: Of class aggregation, ``'linear'`` or ``'full'``.
        text_guidance_dim, image_guidance_dim: Channels of the guidance.
        decoder_dims: Channels behind the two steps of the decoder.
        decoder_guidance_dims: Channels of the maps of the tower as they are joined.
        upsampled_dims: Channels of the maps of the tower at the size of the steps.
        **kwargs: See :class:`~vlm_dense.methods.open_vocabulary.cost_volume.CostVolumeHead`.
    """

    dropped_logit = -100.0

    def __init__(
        self,
        embed_dim: int,
        stage_channels: Sequence[int],
        num_variants: int = 1,
        hidden_dim: int = 128,
        num_layers: int = 2,
        num_heads: int = 4,
        window_size: int = 12,
        pad_len: int = 256,
        attention_type: str = 'linear',
        text_guidance_dim: int = 128,
        image_guidance_dim: int = 128,
        decoder_dims: Sequence[int] = (64, 32),
        decoder_guidance_dims: Sequence[int] = (32, 16),
        upsampled_dims: Sequence[int] = (256, 128),
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if len(stage_channels) != 2:
            raise ConfigError(
                f'CATSegHead joins two maps of the tower, found {len(stage_channels)}. Give the backbone two '
                'out_indices, as [3, 7] of ViT-B and [7, 15] of ViT-L.'
            )
        if attention_type not in ATTENTIONS:
            raise ConfigError(
                f'CATSegHead: attention_type must be one of {list(ATTENTIONS)}, found {attention_type!r}.'
            )
        if hidden_dim % num_heads:
            raise ConfigError(f'CATSegHead: num_heads={num_heads} must divide hidden_dim={hidden_dim}.')
        dims = hidden_dim, decoder_dims[0]
        if any(image >= of_class for image, of_class in zip(decoder_guidance_dims, dims, strict=True)):
            raise ConfigError(
                f'CATSegHead: decoder_guidance_dims={tuple(decoder_guidance_dims)} must be smaller than hidden_dim and '
                f'the first of decoder_dims, which they are joined to, found {dims}.'
            )
        self.pad_len = pad_len
        self.upsample1 = nn.ConvTranspose2d(stage_channels[0], upsampled_dims[0], 2, stride=2)
        self.upsample2 = nn.ConvTranspose2d(stage_channels[1], upsampled_dims[1], 4, stride=4)
        self.conv1 = nn.Conv2d(num_variants, hidden_dim, 7, padding=3)
        self.guidance_projection = _convolution(embed_dim, image_guidance_dim)
        self.text_guidance_projection = nn.Sequential(nn.Linear(embed_dim, text_guidance_dim), nn.ReLU())
        self.decoder_guidance_projection = nn.ModuleList(
            _convolution(a, b) for a, b in zip(upsampled_dims, decoder_guidance_dims, strict=True)
        )
        self.layers = nn.ModuleList(
            _Layer(
                _SwinBlocks(hidden_dim, image_guidance_dim, num_heads, window_size),
                ClassAttention(hidden_dim, text_guidance_dim, num_heads, attention_type, pad_len),
            )
            for _ in range(num_layers)
        )
        self.decoder1 = Up(hidden_dim, decoder_dims[0], decoder_guidance_dims[0])
        self.decoder2 = Up(decoder_dims[0], decoder_dims[1], decoder_guidance_dims[1])
        self.head = nn.Conv2d(decoder_dims[1], 1, 3, padding=1)

    def forward(self, features: ImageFeatures, cost: Tensor, text: Tensor) -> Tensor:
        """Logits (B, K, 4 h, 4 w).

        Args:
            features: With ``value`` (B, D, h, w) and two ``stages``.
            cost: Cosines (B, P, K, h, w).
            text: One unit vector a class, (B or 1, K, D).
        """
        classes = cost.shape[2]
        if not self.pad_len or classes <= self.pad_len:
            return self._aggregate(features, cost, text)
        kept = cost.amax(dim=(1, 3, 4)).topk(self.pad_len, dim=1).indices  # (B, pad_len)
        rows = torch.arange(cost.shape[0], device=cost.device)[:, None]
        few = cost.transpose(1, 2)[rows, kept].transpose(1, 2)
        logits = self._aggregate(features, few, text.expand(cost.shape[0], -1, -1)[rows, kept])
        every = logits.new_full((cost.shape[0], classes, *logits.shape[2:]), self.dropped_logit)
        return every.index_put((rows, kept), logits)

    def _aggregate(self, features: ImageFeatures, cost: Tensor, text: Tensor) -> Tensor:
        classes, chunk = cost.shape[2], self.chunk_size
        x = by_classes(lambda c, _: self.conv1(c), cost.transpose(1, 2).flatten(0, 1), classes, chunk)
        guidance = self.guidance_projection(features.value)
        text = self.text_guidance_projection(text)
        for layer in self.layers:
            x = by_classes(lambda m, k, swin=layer.swin_block: swin(m, guidance, k), x, classes, chunk)
            x = layer.attention(x, text, classes, self.pool, chunk)
        fine = [
            project(up(stage))
            for project, up, stage in zip(
                self.decoder_guidance_projection, (self.upsample1, self.upsample2), features.stages, strict=True
            )
        ]
        logits = by_classes(lambda m, k: self._decode(m, fine, k), x, classes, chunk)
        return logits.view(-1, classes, *logits.shape[2:])

    def _decode(self, x: Tensor, fine: Sequence[Tensor], classes: int) -> Tensor:
        x = self.decoder1(x, fine[0], None, classes)
        return self.head(self.decoder2(x, fine[1], None, classes))

    def all_logits(self, features: ImageFeatures, cost: Tensor, text: Tensor) -> list[Tensor]:
        """Logits that have a loss: those of :meth:`forward`."""
        return [self(features, cost, text)]

    def losses(self, logits: Sequence[Tensor], batch_data_samples: list) -> dict[str, Tensor]:
        """``loss_sem_seg``, and ``acc_seg``."""
        loss, right = self.binary_loss(logits[0], batch_data_samples)
        return dict(loss_sem_seg=loss, acc_seg=right)


def _convolution(in_channels: int, channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1), nn.ReLU())


# --- the model --------------------------------------------------------------------------------------------------------


@MODELS.register_module()
class CATSeg(CostVolumeSegmentor):
    """CAT-Seg.

    Args:
        backbone: ``vlm_dense.CLIPViT`` with ``head=True``, ``dense_attention=dict(type='vlm_dense.CATSegAttention')``
            and two ``out_indices``.
        finetune: Projections of the attention that are trained in both towers, ``'qv'`` in the paper; ``''`` freezes
            them.
        pad_multiple: In mode ``'whole'`` images are padded at the right and bottom to a multiple of this and, as in the
            release, the maps of the padding are not cut off, so that images of other sizes come out slightly shrunk.
            ``None``: no padding.
        **kwargs: See :class:`~vlm_dense.methods.open_vocabulary.cost_volume.CostVolumeSegmentor`.

    Examples:
        >>> clip = dict(arch='tiny-vit', pretrained='bundled')
        >>> model = CATSeg(
        ...     backbone=dict(
        ...         type='vlm_dense.CLIPViT',
        ...         head=True,
        ...         out_indices=[0, 1],
        ...         dense_attention=dict(type='vlm_dense.CATSegAttention'),
        ...         **clip,
        ...     ),
        ...     text_encoder=dict(type='vlm_dense.TextTower', **clip),
        ...     decode_head=dict(type='vlm_dense.CATSegHead', hidden_dim=64, num_layers=1),
        ...     class_names=['circle', 'star'],
        ...     clip_resolution=64,
        ...     test_cfg=dict(mode='whole'),
        ... ).eval()
        >>> with torch.no_grad():
        ...     model.set_class_names(['a red ring', 'heart', 'nothing'])
        ...     [sample] = model.predict(torch.zeros(1, 3, 90, 60))
        >>> sample.seg_logits.data.shape
        torch.Size([3, 90, 60])
    """

    default_prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=['A photo of a {} in the scene'])

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict | None = None,
        class_names: ClassNames | None = None,
        finetune: str = 'qv',
        pad_multiple: int | None = 32,
        **kwargs: Any,
    ):
        encoder = dict(text_encoder, frozen=not finetune)
        head = dict(type='vlm_dense.CATSegHead') | dict(decode_head or {})
        super().__init__(backbone, encoder, head, class_names=class_names, **kwargs)
        self.pad_multiple = pad_multiple
        for tower in (self.backbone, self.text_encoder):
            train_projections(tower, finetune)
        if 'q' in finetune:
            freeze_projection(self.backbone.transformer.resblocks[-1], 'q')
        if 'k' in finetune:
            freeze_projection(self.backbone.transformer.resblocks[-1], 'k')

    def head_options(self) -> dict:
        """Widths of the tower, variants of the prompt."""
        tower = self.backbone
        if not isinstance(getattr(tower, 'dense_attention', None), nn.Module):
            raise ConfigError(
                f'CATSeg reads the last block of a ViT, which {type(tower).__name__} has not got. Use '
                "'vlm_dense.CLIPViT' with head=True and dense_attention=dict(type='vlm_dense.CATSegAttention')."
            )
        return dict(embed_dim=tower.embed_dim, stage_channels=tower.out_channels, num_variants=self.num_variants)

    def window_map(self, crops: Tensor) -> Tensor:
        """Logits (B, K, h, w) of windows, or probabilities of whole images."""
        if self._mode() != 'whole' or not self.pad_multiple:
            return super().window_map(crops)
        height, width = crops.shape[2:]
        padded = F.pad(crops, (0, -width % self.pad_multiple, 0, -height % self.pad_multiple))
        return super().window_map(padded)[:, :, :height, :width]

    def _read_official(self, state_dict: dict, prefix: str, *args) -> None:
        """Read the official release."""
        super()._read_official(state_dict, prefix)
        for key in [key for key in state_dict if key.startswith((f'{prefix}upsample1.', f'{prefix}upsample2.'))]:
            state_dict[f'{prefix}decode_head.{key.removeprefix(prefix)}'] = state_dict.pop(key)
        for name in ('backbone', 'text_encoder'):
            rename_projections(state_dict, getattr(self, name), f'{prefix}{name}.')
