"""A vision transformer of timm as the source of patch features: DINO, DINOv3, TIPSv2, RADIO, PE-Spatial, ..."""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from vlm_dense.clip.image_tower import resize_positions
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

FEATURES = ('norm', 'query', 'key', 'value', 'query_key')


@MODELS.register_module()
class ProxyViT(nn.Module):
    """Maps of patch tokens of a timm ViT.

    Args:
        model: Name of a timm ViT, as ``'vit_base_patch8_224.dino'``.
        pretrained: True downloads timm's weights; a path loads a file, of timm or of DINO's release; False leaves them
            random, for weights that come with a checkpoint of the whole model.
        positions: How positions fit images of other sizes: ``'dino'``, DINO's rule, or ``'timm'``, which resizes with
            antialiasing.
        feature: ``'norm'``, tokens after the last norm; ``'query'``, ``'key'`` or ``'value'`` of the last block, all
            heads behind each other, or ``'query_key'``, the sum of queries and keys. All but ``'norm'`` need DINO's
            rule of positions.
        **kwargs: Of ``timm.create_model``.

    Attributes:
        mean, std: What timm says of the model's images, of colours between 0 and 1.

    Raises:
        ConfigError: another rule, or one that does not suit the model.
    """

    def __init__(
        self, model: str, pretrained: bool | str, positions: str = 'dino', feature: str = 'norm', **kwargs: Any
    ):
        super().__init__()
        if feature not in FEATURES or (feature != 'norm' and positions != 'dino'):
            raise ConfigError(
                f"ProxyViT: feature must be one of {list(FEATURES)}, others than 'norm' with positions='dino', found "
                f'{feature!r} and {positions!r}.'
            )
        if positions not in ('dino', 'timm'):
            raise ConfigError(f"ProxyViT: positions must be 'dino' or 'timm', found {positions!r}.")
        path = pretrained if isinstance(pretrained, str) else ''
        self.model = timm.create_model(
            model, pretrained is True, checkpoint_path=path, num_classes=0, dynamic_img_size=True, **kwargs
        )
        rotary = getattr(self.model, 'rope', None) is not None
        if positions == 'dino' and (rotary or self.model.num_prefix_tokens != 1 or self.model.no_embed_class):
            raise ConfigError(
                f"ProxyViT: positions='dino' is for ViTs with one class token that has a position; {model} is "
                "another. Use positions='timm'."
            )
        self.positions = positions
        self.feature = feature
        self.patch_size = self.model.patch_embed.patch_size[0]
        self.mean, self.std = (tuple(self.model.default_cfg[name]) for name in ('mean', 'std'))

    def forward(self, images: Tensor) -> Tensor:
        """Map (B, C, H // p, W // p) of images (B, 3, H, W); what fills no patch is left out."""
        p, vit = self.patch_size, self.model
        grid = images.shape[2] // p, images.shape[3] // p
        images = images[:, :, : grid[0] * p, : grid[1] * p]
        tokens = self._tokens(images, grid) if self.positions == 'dino' else vit.forward_features(images)
        return tokens[:, vit.num_prefix_tokens :].mT.unflatten(2, grid)

    def _tokens(self, images: Tensor, grid: tuple[int, int]) -> Tensor:
        vit = self.model
        tokens = vit.patch_embed(images).flatten(1, 2)
        tokens = torch.cat([vit.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = vit.norm_pre(tokens + resize_positions(vit.pos_embed[0], grid, 'dino'))
        if self.feature == 'norm':
            return vit.norm(vit.blocks(tokens))
        last = vit.blocks[-1]
        query, key, value = last.attn.qkv(last.norm1(vit.blocks[:-1](tokens))).chunk(3, dim=-1)
        return dict(query=query, key=key, value=value, query_key=query + key)[self.feature]
