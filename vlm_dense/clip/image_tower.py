"""Base of CLIP's two image towers: any input size, and every feature that the methods request.

Both towers, ``clip/resnet.py`` and ``clip/vit.py``, are ordinary backbones: ``forward`` returns a tuple of stage maps,
so ``type='vlm_dense.CLIPViT'`` and ``type='vlm_dense.CLIPResNet'`` work in plain mmseg and mmdet configs. What a
classifier, DenseCLIP or MaskCLIP needs beyond that comes from :meth:`ImageTower.encode`, which computes the named
features only.

State-dict keys are those of the published checkpoints (``visual.*`` without the prefix).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from mmengine.model import BaseModule
from torch import Tensor, nn

from vlm_dense.clip.preprocessing import Preprocessing, preprocessing_of
from vlm_dense.errors import ConfigError
from vlm_dense.registry import build_part

POSITION_MODES = ('bilinear', 'bicubic', 'bicubic_scaled', 'dino')
FEATURES = ('stages', 'global', 'dense', 'patch', 'value', 'regions', 'pooled', 'images')


def checked_recomputation(with_cp: bool | str) -> bool | str:
    """``with_cp`` of a tower, if it is one of its values."""
    if not isinstance(with_cp, bool) and with_cp != 'light':
        raise ConfigError(f"with_cp must be True, False or 'light', found {with_cp!r}.")
    return with_cp


@dataclass
class ImageFeatures:
    """Features of a batch of images; those not requested are ``None``.

    Attributes:
        stages: Maps (B, C_i, h_i, w_i) of the chosen stages, finest first.
        global_: (B, D) CLIP's image feature, not normalised.
        dense: (B, D, h, w) every position sent through CLIP's own last projection, not normalised.
        patch: (B, C, h, w) last map before the projection.
        value: (B, D, h, w) embedding of each patch for dense prediction, not normalised. MaskCLIP, section 3.2: value
            and output projection of the last attention layer, each token attending to itself only. A ViT's
            ``dense_attention`` replaces it.
        key: (B, h*w, C) keys of that layer, for MaskCLIP's key smoothing. Comes with ``value``, if there are any.
        regions: (B, 1 + h*w, D) the mean token and all positions, with their rows of the position table, through the
            value path of a ResNet's attention pool (DualCoOp, section 3.2).
        pooled: (B, D) the image feature with an attention pool that has no table of positions (TaI-DPT, section 3.3);
            of a ViT, which has no such pool, ``global_``.
        images: (B, 3, H, W), input of the tower.
        tokens: (B, T, D) every position of a text instead of an image, not normalised; ``global_`` is then that of
            the end-of-text token.
        padding: (B, T) bool, which of them lie behind the text. Comes with ``tokens``.
        prompts: Prompt tokens of the tower. Not part of a selection of images or of a copy.
    """

    stages: tuple[Tensor, ...] | None = None
    global_: Tensor | None = None
    dense: Tensor | None = None
    patch: Tensor | None = None
    value: Tensor | None = None
    key: Tensor | None = None
    regions: Tensor | None = None
    pooled: Tensor | None = None
    images: Tensor | None = None
    tokens: Tensor | None = None
    padding: Tensor | None = None
    prompts: PromptTokens | None = None

    def float(self) -> ImageFeatures:
        """The same in float32."""
        return self._each(lambda t: t.float() if t.is_floating_point() else t)

    def __getitem__(self, rows) -> ImageFeatures:
        """Features of some of the images, ``rows`` as for a tensor; the axis of images stays."""
        return self._each(lambda t: t[rows])

    def _each(self, change) -> ImageFeatures:
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return ImageFeatures(
            **{
                name: tuple(change(t) for t in value) if isinstance(value, tuple) else change(value)
                for name, value in given.items()
                if isinstance(value, (Tensor, tuple))
            }
        )


@dataclass
class PromptTokens:
    """Prompt tokens for a ViT: what VPT, MaPLe, IVLP, UPT, DPT and MVLPT insert.

    A method with tokens that depend on the hidden states subclasses this and overrides :meth:`before_block` or
    :meth:`after_block`.

    Attributes:
        first: (M, C) or (B, M, C) tokens inserted before the first block.
        deep: Tokens that replace the inserted ones before blocks 1, 2, ...; each (M, C) or (B, M, C). After the last
            of them the tokens flow on.
        place: ``'end'`` (after the patches) or ``'front'`` (between class token and patches).
        through_ln_pre: Whether ``first`` passes the layer norm in front of the blocks.
        num_prefix: Tokens in front of those in ``'front'``; set by the tower: 1, its class token, or 0 without one.

    Examples:
        >>> tokens = PromptTokens(first=torch.zeros(2, 8))
        >>> tokens.join(torch.ones(1, 5, 8), tokens.first).shape  # two tokens behind five
        torch.Size([1, 7, 8])
    """

    first: Tensor
    deep: Sequence[Tensor] = field(default_factory=tuple)
    place: str = 'end'
    through_ln_pre: bool = True
    num_prefix: int = field(default=1, kw_only=True)

    def __post_init__(self):
        if self.place not in ('end', 'front'):
            raise ConfigError(f"PromptTokens: place must be 'end' or 'front', found {self.place!r}.")

    @property
    def num_tokens(self) -> int:
        """M, the number of inserted tokens."""
        return self.first.shape[-2]

    @property
    def num_front(self) -> int:
        """Tokens between the class token and the patches."""
        return self.num_tokens if self.place == 'front' else 0

    def join(self, x: Tensor, tokens: Tensor, *, replace: bool = False) -> Tensor:
        """Insert ``tokens`` into ``x`` (B, L, C), or replace those inserted before."""
        tokens = tokens.to(x.dtype).expand(x.shape[0], -1, -1)
        dropped = tokens.shape[1] if replace else 0
        if self.place == 'front':
            first = self.num_prefix
            return torch.cat([x[:, :first], tokens, x[:, first + dropped :]], dim=1)
        return torch.cat([x[:, : x.shape[1] - dropped], tokens], dim=1)

    def before_block(self, index: int, x: Tensor) -> Tensor:
        """Hidden states (B, L, C) on their way into block ``index``."""
        if 1 <= index <= len(self.deep):
            return self.join(x, self.deep[index - 1], replace=True)
        return x

    def after_block(self, index: int, x: Tensor) -> Tensor:
        """Hidden states (B, L, C) that came out of block ``index``."""
        return x


class ImageTower(BaseModule):
    """Base class of both towers, :class:`CLIPViT` and :class:`CLIPResNet`.

    Args:
        arch: open_clip model name, bundled name or open_clip model config, see
            :func:`vlm_dense.clip.loading.load_clip`.
        pretrained: Tag, ``'bundled'``, file path, or ``None`` for random weights.
        input_resolution: Image side of the stored position grid; the loaded grid is resized to it once. Default:
            the side the model was trained with. Any input size works with any stored grid.
        out_indices: Which stages ``forward`` returns.
        frozen_stages: -1: nothing is frozen; 0: the stem; i: also the first i stages (ResNet) or blocks (ViT).
        norm_eval: Keep every BatchNorm in eval mode.
        frozen: Nothing of the tower is trained or leaves eval mode, but for ``image_prompt`` and the pyramid of a ViT.
        image_prompt: Config of a prompt of this tower that needs no text: ``vlm_dense.VPTPrompt`` (ViT), ``VPPrompt``,
            ``LoRA``, for models that are not of this package; the others have it themselves, beside the backbone.
            Applied in :meth:`encode`; its parameters are ``image_prompt.*``.
        with_cp: Recompute activations in the backward pass to save memory: True those of all blocks, ``'light'`` only
            the cheap ones, the stem of a ResNet, normalised tokens and the hidden ones of MLPs of a ViT.
    """

    position_key: str
    takes_tokens: bool = False
    """Whether prompt tokens can be inserted."""
    preprocessing: Preprocessing
    """Mean, deviation, resizing and size that the weights were trained with."""
    stride: int = 32
    """Pixels between two positions of the feature ``dense``."""

    def __init__(self, init_cfg: dict | None = None):
        super().__init__(init_cfg)
        self._register_load_state_dict_pre_hook(self._fit_positions)
        self._register_load_state_dict_pre_hook(self._leave_out_dropped)
        self._dropped: tuple[str, ...] = ()
        self.frozen = False
        self.image_prompt: nn.Module | None = None

    @property
    def description(self) -> str:
        """Class and family, for messages."""
        return type(self).__name__

    def _take_preprocessing(self, arch: str | Mapping, pretrained: str | None) -> None:
        """How images are prepared for the weights; as for OpenAI's where nobody says it."""
        self.preprocessing = preprocessing_of(arch, pretrained) or Preprocessing.of_openai(arch)

    def _finish(self, frozen: bool, image_prompt: dict | None) -> None:
        """Last step of a constructor: build the prompt, which inspects the tower, and freeze."""
        self.frozen = frozen
        if image_prompt is not None:
            self.image_prompt = build_part(image_prompt, class_names=None, text_tower=None, image_tower=self)
        self._freeze(self._frozen_modules())

    def _all_but(self, *trained: str) -> list[nn.Module | nn.Parameter]:
        """Frozen modules of a frozen tower: everything but the prompt and these modules."""
        own = (*self.named_children(), *self.named_parameters(recurse=False))
        return [part for name, part in own if name not in ('image_prompt', *trained)]

    def _fit_positions(self, state_dict: dict, prefix: str, *args) -> None:
        """Resize the position grid of a checkpoint made for another input resolution."""
        key, own = prefix + self.position_key, dict(self.named_parameters()).get(self.position_key)
        found = state_dict.get(key)
        if own is None or found is None or found.shape == own.shape or found.shape[1:] != own.shape[1:]:
            return
        side, wanted = math.isqrt(len(found) - 1), math.isqrt(len(own) - 1)
        if side * side + 1 == len(found):
            print_log(f'{key}: {side} x {side} positions resized to {wanted} x {wanted}.', logger='current')
            state_dict[key] = resize_positions(found, (wanted, wanted))

    def _leave_out_dropped(self, state_dict: dict, prefix: str, *args) -> None:
        """Ignore the weights of a whole tower's checkpoint that no stage of this one needs."""
        for key in [k for k in state_dict if k.startswith(tuple(prefix + name for name in self._dropped))]:
            del state_dict[key]

    @classmethod
    def stage_channels(cls, cfg: Mapping[str, Any]) -> list[int]:
        """Channels of the stages of a tower of this kind built from ``cfg``.

        A neck needs them before the tower is built. By default a tower is built for it; the kinds of this package
        read them from the config.
        """
        return list(cls(**{name: value for name, value in cfg.items() if name != 'type'}).out_channels)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Stage maps of a batch of normalised images (B, 3, H, W), finest first."""
        return self.encode(images, ('stages',)).stages

    def encode(
        self, images: Tensor, features: Sequence[str], prompts: PromptTokens | None = None, **options: Any
    ) -> ImageFeatures:
        """Compute the named features of a batch of images.

        Args:
            images: (B, 3, H, W) normalised. Pixel prompts (VP) are added to the images before this call.
            features: Any of ``stages``, ``global``, ``dense``, ``patch``, ``value``, ``pooled``, ``images`` and,
                ResNet only, ``regions``.
            prompts: Prompt tokens; ViT only.
            **options: Of a kind of tower.

        Returns:
            :class:`ImageFeatures` with just these filled.

        Raises:
            ConfigError: an unknown feature, prompt tokens for a ResNet or beside those of ``image_prompt``, or regions
                of a ViT.
        """
        unknown = set(features) - set(FEATURES)
        if unknown:
            raise ConfigError(f'Unknown image features {sorted(unknown)}; known are {list(FEATURES)}.')
        asked = set(features) - {'images'}
        if self.image_prompt is not None:
            if prompts is not None:
                raise ConfigError(
                    f'{type(self).__name__} has an image_prompt of its own and was given prompt tokens: leave one out.'
                )
            images, prompts = self.image_prompt.prompt(images)
        found = self._encode(images, asked, prompts, **options)
        found.images = images if 'images' in features else None
        return found

    def _freeze(self, modules: Sequence[nn.Module | nn.Parameter]) -> None:
        for m in modules:
            m.requires_grad_(False)
            if isinstance(m, nn.Module):
                m.eval()

    def train(self, mode: bool = True) -> ImageTower:
        """Switch the mode; frozen stages, and with ``norm_eval`` every BatchNorm, stay in eval mode."""
        super().train(mode)
        if mode:
            self._freeze(self._frozen_modules())
            if self.norm_eval:
                for m in self.modules():
                    if isinstance(m, nn.modules.batchnorm._BatchNorm):
                        m.eval()
        return self


class AttentionPooling:
    """Mixin of image towers with an ``attnpool`` that is open_clip's ``AttentionPool2d``.

    Attributes:
        attnpool_positions: ``'interpolate'`` resizes the stored grid of positions to the map's size (DenseCLIP
            segmentation), ``'bicubic'`` does so as its name says (DualCoOp); ``'crop'`` takes its top left part
            (DenseCLIP detection).
    """

    position_key = 'attnpool.positional_embedding'
    attnpool_positions = 'interpolate'

    def pool_tokens(self, x: Tensor, positions: bool = True) -> Tensor:
        """Tokens that enter the attention pool: mean of all positions, then the positions.

        Args:
            x: (B, C, h, w) map of the last stage.
            positions: Add the position table (CLIP does).

        Returns:
            (B, 1 + h*w, C).
        """
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        if not positions:
            return tokens
        table, (h, w) = self.attnpool.positional_embedding, x.shape[2:]
        if self.attnpool_positions != 'crop':
            mode = dict(interpolate='bilinear', bicubic='bicubic')[self.attnpool_positions]
            return tokens + resize_positions(table, (h, w), mode).to(tokens.dtype)
        side = math.isqrt(len(table) - 1)
        if h > side or w > side:
            raise ConfigError(
                f'The attention pool stores positions of a {side} x {side} grid (images up to {32 * side} px), found '
                f"a {h} x {w} map. Raise input_resolution or set attnpool_positions='interpolate'."
            )
        grid = table[1:].unflatten(0, (side, side))[:h, :w]
        return tokens + torch.cat([table[:1], grid.flatten(0, 1)]).to(tokens.dtype)

    def attention_pool(self, x: Tensor, all_tokens: bool, positions: bool = True) -> Tensor:
        """CLIP's attention pool.

        Args:
            x: (B, C, h, w) map of the last stage.
            all_tokens: Every token is a query, not just the mean token.
            positions: Add the position table (CLIP does; MaskCLIP's ``attn_pooling`` does not).

        Returns:
            (B, 1 + h*w, D), or (B, 1, D) without ``all_tokens``. Row 0 is CLIP's image feature.
        """
        pool = self.attnpool
        tokens = self.pool_tokens(x, positions)
        queries = tokens if all_tokens else tokens[:, :1]
        q, k, v = (
            proj(t).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2)
            for proj, t in ((pool.q_proj, queries), (pool.k_proj, tokens), (pool.v_proj, tokens))
        )
        mixed = F.scaled_dot_product_attention(q, k, v)
        return pool.c_proj(mixed.transpose(1, 2).flatten(2))


def resize_positions(positions: Tensor, size: tuple[int, int], mode: str = 'bilinear') -> Tensor:
    """Resize the spatial part of a table of position embeddings.

    Args:
        positions: (1 + S*S, C); row 0 belongs to the class or mean token and is kept.
        size: Wanted grid (h, w).
        mode: ``'bilinear'`` (DenseCLIP), ``'bicubic'`` (MaskCLIP), or ``'dino'``, which samples at the scale
            factors (h + 0.1) / S and (w + 0.1) / S, or ``'bicubic_scaled'`` (SCLIP and its successors), the same but
            that the table is kept as it is for any grid of S*S places, whatever its shape. align_corners is False in
            all.

    Returns:
        (1 + h*w, C), in the dtype of ``positions``.
    """
    side, (h, w) = math.isqrt(len(positions) - 1), size
    traced = isinstance(h, torch.SymInt) or isinstance(w, torch.SymInt)  # sizes that a traced graph leaves open
    if mode in ('bicubic_scaled', 'dino'):
        fits = (h, w) == (side, side) or mode == 'bicubic_scaled' and h * w == side * side
    else:
        fits = not traced and (h, w) == (side, side)  # interpolation to the same size changes nothing
    if fits:
        return positions
    grid = positions[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2).float()
    if mode in ('bicubic_scaled', 'dino'):
        grid = F.interpolate(grid, scale_factor=((h + 0.1) / side, (w + 0.1) / side), mode='bicubic')
    else:
        grid = F.interpolate(grid, size=size, mode=mode, align_corners=False)
    return torch.cat([positions[:1], grid.to(positions.dtype).flatten(2)[0].T])
