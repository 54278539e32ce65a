"""SAN: a small ViT beside a frozen CLIP proposes masks, and biases by which CLIP's last blocks look at each of them.

"Side Adapter Network for Open-Vocabulary Semantic Segmentation", CVPR 2023, section 3.

The side network reads the image and, at some of its blocks, maps of CLIP's earlier blocks. Each of its queries gives a
mask and, for each attention head of CLIP, a bias over the image. Copies of CLIP's class token, one a query, run through
the last blocks and see the patches with these biases: they become CLIP's embeddings of the masks, without any training
of CLIP, and are compared with class names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule, caffe2_xavier_init
from mmseg.models.utils import MLP
from mmseg.utils import add_prefix
from timm.layers import LayerNorm2d
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.last_blocks import DenseTokens, LastBlocks
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.contract.dense_attention import DenseAttention
from vlm_dense.errors import ConfigError
from vlm_dense.methods.open_vocabulary.proposals import TEMPLATES, MaskLosses, ProposalSegmentor
from vlm_dense.methods.open_vocabulary.text import ClassNames
from vlm_dense.registry import MODELS
from vlm_dense.vocabulary.class_names import Aliases

PAPER = dict(
    name='SAN',
    title='Side Adapter Network for Open-Vocabulary Semantic Segmentation',
    venue='CVPR 2023',
    link='https://arxiv.org/abs/2302.12242',
    code='https://github.com/MendelXu/SAN',
    licence='MIT',
    idea='A small ViT beside a frozen CLIP proposes masks and biases of attention, by which CLIP embeds the masks.',
    trains='side network; positions of the image tower, embedding of nothing',
    published='trained on COCO-Stuff, mIoU of the released logs, A-847 / PC-459: ViT-B/16 10.2 / 16.7, '
    'ViT-L/14 13.0 / 20.8',
    contract='any T; tokens of queries in the last blocks of a ViT',
    notes="""
Matching and losses are those of mmdet's Mask2Former. Both supervised outputs go through CLIP's last blocks at once, as
their tokens do not see each other. Prompt tokens of the image tower are seen by the tokens of the masks; the paper has
none. mmseg's own port differs, see [mmsegmentation](../../docs/migration/mmsegmentation.md).
""",
)

HIDDEN = -100.0


@MODELS.register_module()
class SideAdapterAttention(DenseAttention):
    """Copies of the class token, one a proposal, that run through the last blocks and see patches with its biases.

    A copy sees itself, the patches and prompt tokens; nothing sees a copy. The features are those of the N copies, on a
    grid of 1 x N.

    Args:
        num_blocks: Last blocks of the tower that the copies run through.
        hidden_states: Blocks with outputs that the proposals are made of; -1: what enters the first block.
    """

    reads_proposals = True
    takes_prompts = True

    def __init__(self, num_blocks: int = 3, hidden_states: Sequence[int] = (-1, 2, 5, 8)):
        super().__init__()
        self.num_blocks, self.hidden_states = num_blocks, tuple(hidden_states)

    def forward(self, last: LastBlocks) -> DenseTokens:
        """Tokens of the proposals behind the last block."""
        start = last.class_token(last.tokens, 'SideAdapterAttention copies the class token')
        states = [last.hidden_states[i] for i in self.hidden_states]
        maps = [x[:, last.patches].mT.unflatten(2, last.grid) for x in states]
        biases = last.propose(maps)
        if len(biases) not in (1, len(last.blocks)):
            raise ConfigError(
                f'{len(biases)} biases of attention for {len(last.blocks)} blocks: expected one for all, or one each.'
            )
        number = biases[0].shape[2]
        copies, x = start.expand(-1, number, -1), last.tokens
        for i, block in enumerate(last.blocks):
            if last.prompts is not None:
                x = last.prompts.before_block(last.first + i, x)
            bias = biases[i % len(biases)]
            pooled = F.adaptive_max_pool2d(bias.flatten(0, 1), last.grid).view(*bias.shape[:3], -1)
            mask = self._mask(pooled, x.shape[1], last.patches)
            both = block(torch.cat([copies, x], dim=1), path=partial(self._path, mask))
            copies, x = both[:, :number], both[:, number:]
            if last.prompts is not None:
                x = last.prompts.after_block(last.first + i, x)
        return DenseTokens(copies, (1, number))

    @staticmethod
    def _mask(bias: Tensor, length: int, patches: slice) -> Tensor:
        """What is added to the scores, (B, H, N + L, N + L), of biases (B, H, N, h * w) and L tokens of the tower."""
        number = bias.shape[2]
        own = torch.full((number, number), HIDDEN, device=bias.device, dtype=bias.dtype).fill_diagonal_(0)
        others = bias.new_zeros(*bias.shape[:3], length)
        others[..., :1] = HIDDEN
        others[..., patches] = bias
        copies = torch.cat([own.expand(*bias.shape[:2], -1, -1), others], dim=-1)
        rest = F.pad(bias.new_zeros(length, length), (number, 0), value=HIDDEN)
        return torch.cat([copies, rest.expand(*bias.shape[:2], -1, -1)], dim=2)

    @staticmethod
    def _path(mask: Tensor, block: TransformerBlock, x: Tensor) -> Tensor:
        q, k, v = block.qkv(x)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask.to(q.dtype), scale=block.scale)
        return block.feed_forward(x + block.scaled(block.output(mixed)))


# --- the side network -------------------------------------------------------------------------------------------------


class _Fusion(nn.Sequential):
    """A map of CLIP on its way into the side network: norm of the channels and 1 x 1 convolution."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__(LayerNorm2d(in_channels), nn.Conv2d(in_channels, channels, 1))
        caffe2_xavier_init(self[1])


@MODELS.register_module()
class SideAdapterHead(MaskLosses):
    """The side network: a ViT with queries, masks and biases; losses as of Mask2Former.

    Args:
        num_classes: K at the start; any other is possible later.
        in_channels: Channels C of the tower's maps; the model fills it in.
        num_maps: Of the tower's maps; the model fills it in.
        heads: Attention heads of the tower; the model fills it in.
        num_blocks: Blocks of the tower that take a bias; the model fills it in.
        fusion: Blocks of the side network behind which the tower's maps are added, in their order; 0 is in front of
            the first.
        width, depth, side_heads, patch_size: Of the side ViT.
        image_size: Side of images for which positions are stored; for others they are resized.
        num_queries: N.
        supervised: Outputs with losses, from 1; the last one is that of the last block, and the result.
        shared_blocks, shared_heads: Whether all blocks, all heads of the tower have the same biases.
        embed_channels, mlp_channels: Of queries and maps in the dot products, and of hidden layers.
        num_points, num_things, ignore_index: See
            :class:`~vlm_dense.methods.open_vocabulary.proposals.MaskLosses`.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        num_maps: int,
        heads: int,
        num_blocks: int,
        fusion: Sequence[int] = (0, 1, 2, 3),
        width: int = 240,
        depth: int = 8,
        side_heads: int = 6,
        patch_size: int = 16,
        image_size: int = 640,
        num_queries: int = 100,
        supervised: Sequence[int] = (7, 8),
        shared_blocks: bool = True,
        shared_heads: bool = False,
        embed_channels: int = 256,
        mlp_channels: int = 256,
        num_points: int = 12544,
        num_things: int | None = None,
        ignore_index: int = 255,
        init_cfg: dict | None = None,
    ):
        super().__init__(num_classes, num_queries, num_points, num_things, ignore_index, init_cfg)
        fusion, supervised = tuple(fusion), tuple(sorted(supervised))
        if len(fusion) != num_maps or len(set(fusion)) != num_maps or not all(0 <= i <= depth for i in fusion):
            raise ConfigError(
                f'SideAdapterHead: fusion must name a block from 0 to depth={depth} for each of the {num_maps} maps '
                f'that the hidden_states of SideAdapterAttention give, none twice, found {list(fusion)}.'
            )
        if not supervised or supervised[0] < 1 or supervised[-1] != depth:
            raise ConfigError(
                f'SideAdapterHead: supervised must be outputs from 1 to depth={depth}, with {depth} among them, found '
                f'{list(supervised)}.'
            )
        if width % side_heads:
            raise ConfigError(f'SideAdapterHead: side_heads={side_heads} must divide width={width}.')
        self.supervised, self.fusion_order = supervised, fusion
        self.patch_embed = nn.Conv2d(3, width, patch_size, stride=patch_size)
        self.query_embed = nn.Parameter(0.02 * torch.randn(1, num_queries, width))
        self.query_pos_embed = nn.Parameter(0.02 * torch.randn(1, num_queries, width))
        self.pos_embed = nn.Parameter(torch.empty(1, (image_size // patch_size) ** 2, width))
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.blocks = nn.ModuleList(Block(width, side_heads, qkv_bias=True, norm_layer=norm) for _ in range(depth))
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.fusion = nn.ModuleDict({str(i): _Fusion(in_channels, width) for i in fusion})
        self.biases = 1 if shared_blocks else num_blocks, 1 if shared_heads else heads
        convolution = partial(nn.Conv2d, kernel_size=1)
        self.query_mlp = MLP(width, mlp_channels, embed_channels, 3)
        self.pix_mlp = MLP(width, mlp_channels, embed_channels, 3, affine_func=convolution)
        self.attn_mlp = MLP(width, mlp_channels, math.prod(self.biases) * embed_channels, 3, affine_func=convolution)
        self.bias_scaling = nn.Linear(1, 1)

    def init_weights(self) -> None:
        """Those of the constructor, unless ``init_cfg`` says more."""
        BaseModule.init_weights(self)

    def forward(self, images: Tensor, maps: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Proposals of the supervised outputs, in evaluation of the last one.

        Args:
            images: (B, 3, H, W), sides that are multiples of the patch.
            maps: (B, C, h, w) of the tower, in the order of ``fusion``.

        Returns:
            Logits of masks (B, N, h', w') of each output, and biases (B, heads or 1, outputs * N, h', w') of each of
            the tower's blocks, or once for all.
        """
        x = self.patch_embed(images)
        grid = x.shape[2:]
        maps = dict(zip(self.fusion_order, maps, strict=True))
        positions = self._positions(grid)
        x = torch.cat([self.query_embed.expand(len(x), -1, -1), x.flatten(2).mT], dim=1) + positions
        x = self.fuse(x, grid, 0, maps)
        found, last = [], len(self.blocks)
        for i, block in enumerate(self.blocks, start=1):
            x = self.fuse(block(x), grid, i, maps)
            if i in self.supervised and (self.training or i == last):
                found.append(self._decode(x, grid))
            if i != last:
                x = x + positions
        masks, biases = zip(*found, strict=True)
        return list(masks), list(torch.cat(biases, dim=3).unbind(1))

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """Positions of queries and patches (1, N + h * w, C)."""
        own, number = self.pos_embed, grid[0] * grid[1]
        if own.shape[1] != number:  # as in the release, another shape of the same size is not noticed
            side = math.isqrt(own.shape[1])
            wide = F.interpolate(own.mT.unflatten(2, (side, side)), grid, mode='bicubic', align_corners=False)
            own = wide.flatten(2).mT
        return torch.cat([self.query_pos_embed, own], dim=1)

    def fuse(self, x: Tensor, grid: tuple[int, int], index: int, maps: dict[int, Tensor]) -> Tensor:
        """Tokens (B, N + h * w, C) with the tower's map for this block, if there is one, added to those of patches."""
        if index not in maps:
            return x
        added = self.fusion[str(index)](maps[index])
        added = F.interpolate(added, grid, mode='bilinear', align_corners=False).flatten(2).mT
        return torch.cat([x[:, : self.num_queries], x[:, self.num_queries :] + added], dim=1)

    def _decode(self, x: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Masks (B, N, h, w) and biases (B, blocks, heads, N, h, w) of tokens (B, N + h * w, C)."""
        queries = self.query_mlp(x[:, : self.num_queries])
        maps = x[:, self.num_queries :].mT.unflatten(2, grid)
        masks = torch.einsum('bqc,bchw->bqhw', queries, self.pix_mlp(maps))
        keys = self.attn_mlp(maps).unflatten(1, (*self.biases, -1))
        biases = torch.einsum('bqc,bnmchw->bnmqhw', queries, keys)
        return masks, self.bias_scaling(biases[..., None])[..., 0]


# --- the model --------------------------------------------------------------------------------------------------------


@MODELS.register_module()
class SAN(ProposalSegmentor):
    """SAN; its masks also make panoptic segments and instances.

    Call graph::

        loss / predict --> text_side.encode of the small image: the tower's blocks up to the last ones
                --> decode_head(image, maps): masks (B, N, h, w), biases --> the last blocks: embeddings of the masks
                --> classify: logits (B, N, K + 1) --> semantic: sum of probabilities * masks

    Args:
        backbone: ``vlm_dense.CLIPViT`` with ``head=True`` and
            ``dense_attention=dict(type='vlm_dense.SideAdapterAttention')``; its positions alone are trained.
        text_encoder: ``vlm_dense.TextTower``, frozen.
        decode_head: Options of ``vlm_dense.SideAdapterHead``.
        class_names: See :class:`~vlm_dense.methods.open_vocabulary.text.OpenVocabularySegmentor`; several names of a
            class are one text, with commas.
        clip_resolution: Factor of the sides of images on their way into the tower.
        masks_first: Masks go to the original size before they are summed up; else the sum goes there.
        **kwargs: ``pad_multiple`` and ``panoptic``, see
            :class:`~vlm_dense.methods.open_vocabulary.proposals.ProposalSegmentor`, and those of
            :class:`~vlm_dense.methods.open_vocabulary.text.OpenVocabularySegmentor`.

    Examples:
        >>> clip = dict(arch='tiny-vit', pretrained='bundled')
        >>> part = dict(type='vlm_dense.SideAdapterAttention', num_blocks=1, hidden_states=[-1, 0])
        >>> model = SAN(
        ...     backbone=dict(type='vlm_dense.CLIPViT', head=True, dense_attention=part, **clip),
        ...     text_encoder=dict(type='vlm_dense.TextTower', **clip),
        ...     decode_head=dict(width=48, depth=2, supervised=[2], fusion=[0, 1], num_queries=5),
        ...     class_names=['circle', 'star'],
        ...     test_cfg=dict(mode='whole'),
        ... ).eval()
        >>> with torch.no_grad():
        ...     model.set_class_names(['a red ring', 'heart', 'nothing'])
        ...     [sample] = model.predict(torch.zeros(1, 3, 90, 60))
        >>> sample.seg_logits.data.shape
        torch.Size([3, 90, 60])
    """

    default_prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=TEMPLATES)

    def __init__(
        self,
        backbone: dict,
        text_encoder: dict,
        decode_head: dict | None = None,
        class_names: ClassNames | None = None,
        clip_resolution: float = 0.5,
        masks_first: bool = True,
        **kwargs: Any,
    ):
        head = dict(type='vlm_dense.SideAdapterHead') | dict(decode_head or {})
        tower = dict(backbone, frozen=True)
        super().__init__(tower, text_encoder, head, class_names=class_names, masks_first=masks_first, **kwargs)
        if clip_resolution <= 0:
            raise ConfigError(f'SAN: clip_resolution must be a positive factor, found {clip_resolution}.')
        self.clip_resolution = clip_resolution
        self.backbone.frozen = False
        self.backbone.positional_embedding.requires_grad_(True)
        nn.init.normal_(self.void_embedding.weight, std=self.text_encoder.embed_dim**-0.5)

    def head_options(self) -> dict:
        """Widths and blocks of the tower."""
        tower = self.backbone
        part = getattr(tower, 'dense_attention', None)
        if not isinstance(tower, CLIPViT) or not isinstance(part, SideAdapterAttention) or not tower.reads_class_token:
            raise ConfigError(
                f'SAN sends copies of the class token through the last blocks of a ViT, found {type(tower).__name__}'
                f"{'' if part is None else f' with {type(part).__name__}'}. Use 'vlm_dense.CLIPViT' of an "
                "architecture with a class token, as 'ViT-B-16-quickgelu', with head=True and "
                "dense_attention=dict(type='vlm_dense.SideAdapterAttention')."
            )
        return dict(
            in_channels=tower.width,
            num_maps=len(part.hidden_states),
            heads=tower.blocks[0].num_heads,
            num_blocks=part.num_blocks,
        )

    def _prompt_names(self, classes: Sequence[Aliases]) -> list[str]:
        """One string a class, all of its names."""
        return [', '.join(names) for names in classes]

    def train(self, mode: bool = True) -> SAN:
        """Switch the mode of everything but the towers."""
        super().train(mode)
        self.backbone.eval()
        return self

    def embed_masks(self, images: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Proposals of padded images (B, 3, H, W), and the texts.

        Returns:
            Logits of masks (B, N, h, w) of each output, their embeddings (B, outputs * N, D), not normalised, and class
            embeddings as prompted.
        """
        masks = []

        def propose(maps: Sequence[Tensor]) -> list[Tensor]:
            found, biases = self.decode_head(images, maps)
            masks.extend(found)
            return biases

        small = F.interpolate(images, scale_factor=self.clip_resolution, mode='bilinear', align_corners=False)
        features, text = self.text_side.encode(self.backbone, small, ('value',), propose=propose)
        return masks, features.value.flatten(2).mT, text

    def propose(self, images: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Logits (B, N, K + 1) and logits of masks (B, N, h, w) of each output, the last one last; class embeddings."""
        masks, embeddings, text = self.embed_masks(images)
        logits = self.classify(embeddings, text, self.text_encoder.logit_scale)
        return list(logits.unflatten(1, (len(masks), -1)).unbind(1)), masks, text

    def last_prediction(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As in :class:`~vlm_dense.methods.open_vocabulary.proposals.ProposalSegmentor`."""
        logits, masks, _ = self.propose(images)
        return masks[-1], logits[-1]

    def loss(self, inputs: Tensor, data_samples: list) -> dict[str, Tensor]:
        """Losses ``decode.*`` of images (B, 3, H, W), Mask2Former's, and ``prompt.*``, the prompt's own."""
        images = self.padded(inputs)
        logits, masks, text = self.propose(images)
        losses = add_prefix(self.decode_head.losses(logits, masks, data_samples, images.shape[2:]), 'decode')
        losses.update(add_prefix(self.text_prompt.losses(text), 'prompt'))
        return losses

    # --- checkpoints ------------------------------------------------------------------------------------------

    def _read_official(self, state_dict: dict[str, Tensor], prefix: str, *args) -> None:
        """Give weights of the official release the names that they have here."""
        first = len(self.backbone.blocks) - self.backbone.dense_attention.num_blocks
        for key in list(state_dict):
            name = key.removeprefix(prefix)
            if name == 'ov_classifier.logit_scale':  # a buffer that no state dict holds
                self.text_encoder.logit_scale.data.copy_(state_dict[key])
            if name in _LEFT_OUT:
                del state_dict[key]
                continue
            found = re.match(r'clip_rec_head\.resblocks\.(\d+)\.', name)
            if found:
                rest = name[found.end() :]
                name = f'backbone.transformer.resblocks.{first + int(found[1])}.{rest}'
            for pattern, ours in _OFFICIAL:
                name = re.sub(pattern, ours, name)
            state_dict[prefix + name] = state_dict.pop(key)


_LEFT_OUT = ('criterion.empty_weight', 'ov_classifier.logit_scale', 'ov_classifier.attn_mask')
_OFFICIAL = (
    (r'^clip_visual_extractor\.resblocks\.', 'backbone.transformer.resblocks.'),
    (r'^clip_visual_extractor\.', 'backbone.'),
    (r'^clip_rec_head\.', 'backbone.'),
    (r'^ov_classifier\.bg_embed$', 'void_embedding.weight'),
    (r'^ov_classifier\.', 'text_encoder.'),
    (r'^side_adapter_network\.vit_model\.patch_embed\.proj\.', 'decode_head.patch_embed.'),
    (r'^side_adapter_network\.vit_model\.', 'decode_head.'),
    (r'^side_adapter_network\.fusion_layers\.layer_(\d+)\.input_proj\.', r'decode_head.fusion.\1.'),
    (r'^side_adapter_network\.(mask_decoder\.)?', 'decode_head.'),
)
