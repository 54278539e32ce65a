"""CLIP's image towers as MaskCLIP uses them, and the weight files of its official release.

"Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_dense.clip.image_tower import ImageFeatures, ImageTower
from vlm_dense.clip.loading import check_fit
from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.errors import CheckpointError, ConfigError, WeightsNotFoundError
from vlm_dense.registry import MODELS


class _MaskCLIPTower(ImageTower):
    """Frozen tower whose ``forward`` returns :class:`ImageFeatures` with ``value`` and ``key``.

    With it any mmseg segmentor takes ``vlm_dense.MaskCLIPHead`` as decode head.
    """

    def _take(self, features: Sequence[str], pretrained: str | None, visual_projs_path: str | None) -> None:
        self.features = tuple(features)
        self.without_positions = False
        if visual_projs_path is not None:
            if pretrained is None:
                raise ConfigError(
                    f'{type(self).__name__}: visual_projs_path holds the projections only; name the backbone file of '
                    'the release (..._clip_backbone.pth) as pretrained.'
                )
            self._load_published(pretrained, visual_projs_path)

    def _load_published(self, backbone_path: str, projs_path: str) -> None:
        own = self.state_dict()
        found = published_tower(backbone_path, projs_path)
        for key in ('attnpool.positional_embedding', *(k for k in own if k.endswith('num_batches_tracked'))):
            if key in own and key not in found:  # not in the release
                found[key] = own[key]
                self.without_positions |= key == 'attnpool.positional_embedding'
        self._fit_positions(found, '')
        check_fit(found, {k: v.shape for k, v in own.items()}, f'{backbone_path} with {projs_path}')
        self.load_state_dict(found)

    def _frozen_modules(self) -> list:
        return [self]

    def forward(self, images: Tensor) -> ImageFeatures:
        """Features of normalised images (B, 3, H, W), see :class:`ImageFeatures`."""
        return self.encode(images, self.features)


@MODELS.register_module()
class MaskCLIPViT(_MaskCLIPTower, CLIPViT):
    """CLIP's vision transformer with MaskCLIP's published settings.

    The published numbers come from exact GELU, layer norms with epsilon 1e-6 and bicubic positions. CLIP was trained
    with another activation (OpenAI: QuickGELU) and epsilon 1e-5: ``act=None, ln_eps=None`` give CLIP's own.

    Args:
        arch: See :class:`CLIPViT`.
        pretrained: See :class:`CLIPViT`; with ``visual_projs_path``, the release's ``<model>_clip_backbone.pth``.
        visual_projs_path: The release's ``<model>_clip_weights.pth``.
        features: What ``forward`` computes; add ``'global'`` for prompts that depend on the image.
        act, ln_eps, pos_mode: See :class:`CLIPViT`.
        **kwargs: As in :class:`CLIPViT`.
    """

    def __init__(
        self,
        arch: str | dict = 'ViT-B-16',
        pretrained: str | None = None,
        visual_projs_path: str | None = None,
        features: Sequence[str] = ('value',),
        act: str | None = 'gelu',
        ln_eps: float | None = 1e-6,
        pos_mode: str = 'bicubic',
        **kwargs,
    ):
        weights = pretrained if visual_projs_path is None else None
        super().__init__(arch, weights, head=True, act=act, ln_eps=ln_eps, pos_mode=pos_mode, **kwargs)
        self._take(features, pretrained, visual_projs_path)


@MODELS.register_module()
class MaskCLIPResNet(_MaskCLIPTower, CLIPResNet):
    """CLIP's ModifiedResNet with the value projection of its attention pool applied to every position.

    Images with a side below 32 px are padded with zeros at the right and bottom.

    Args:
        arch: See :class:`CLIPResNet`.
        pretrained: See :class:`CLIPResNet`; with ``visual_projs_path``, the release's ``<model>_clip_backbone.pth``.
        visual_projs_path: The release's ``<model>_clip_weights.pth``. The release does not hold the pool's positions,
            so the features ``global`` and ``dense`` do not exist then.
        features: What ``forward`` computes; add ``'global'`` for prompts that depend on the image.
        attn_pooling: Take the attention pool's own outputs, without positions, in place of the values. There are no
            keys then.
        **kwargs: As in :class:`CLIPResNet`.
    """

    def __init__(
        self,
        arch: str | dict = 'RN50',
        pretrained: str | None = None,
        visual_projs_path: str | None = None,
        features: Sequence[str] = ('value',),
        attn_pooling: bool = False,
        **kwargs,
    ):
        super().__init__(arch, pretrained if visual_projs_path is None else None, attnpool=True, **kwargs)
        self.attn_pooling = attn_pooling
        self._take(features, pretrained, visual_projs_path)

    def _encode(self, images: Tensor, features: set[str], prompts) -> ImageFeatures:
        if self.without_positions and features & {'global', 'dense'}:
            raise ConfigError(
                "MaskCLIPResNet: the official weight files lack the attention pool's positions, which the features "
                "'global' and 'dense' need. Load CLIP's own weights for them."
            )
        height, width = images.shape[2:]
        images = F.pad(images, (0, max(32 - width, 0), 0, max(32 - height, 0)))
        if not (self.attn_pooling and 'value' in features):
            return super()._encode(images, features, prompts)
        out = super()._encode(images, features - {'value'} | {'patch'}, prompts)
        tokens = self.attention_pool(out.patch, all_tokens=True, positions=False)
        out.value = tokens[:, 1:].transpose(1, 2).unflatten(2, out.patch.shape[2:])
        return out


# --- files of the official release ----------------------------------------------------------------------------

_VIT_KEYS = (
    (r'cls_token', 'class_embedding'),
    (r'pos_embed', 'positional_embedding'),
    (r'patch_embed\.projection\.weight', 'conv1.weight'),
    (r'ln0\.(\w+)', r'ln_pre.\1'),
    (r'ln1\.(\w+)', r'ln_post.\1'),
    (r'layers\.(\d+)\.attn\.attn\.(.+)', r'transformer.resblocks.\1.attn.\2'),
    (r'layers\.(\d+)\.ln([12])\.(\w+)', r'transformer.resblocks.\1.ln_\2.\3'),
    (r'layers\.(\d+)\.ffn\.layers\.0\.0\.(\w+)', r'transformer.resblocks.\1.mlp.c_fc.\2'),
    (r'layers\.(\d+)\.ffn\.layers\.1\.(\w+)', r'transformer.resblocks.\1.mlp.c_proj.\2'),
)
_STEM = {0: 'conv1', 1: 'bn1', 3: 'conv2', 4: 'bn2', 6: 'conv3', 7: 'bn3'}


def read_published(path: str | os.PathLike):
    """Content of a weight file of the release: tensors in dicts, or one tensor.

    Raises:
        WeightsNotFoundError: no such file.
        CheckpointError: it cannot be read, or holds code.
    """
    if not Path(path).is_file():
        raise WeightsNotFoundError(f'Expected a weight file of MaskCLIP at {Path(path).absolute()}, found none.')
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # damaged bytes raise anything
        raise CheckpointError(
            f'{path} is damaged or holds more than tensors and was refused ({str(error).splitlines()[0]}).'
        ) from error


def published_tower(backbone_path: str | os.PathLike, projs_path: str | os.PathLike) -> dict[str, Tensor]:
    """State dict of :class:`CLIPViT` or :class:`CLIPResNet` out of the two files of the release.

    Args:
        backbone_path: ``<model>_clip_backbone.pth``: ``{'state_dict': {'backbone.*': ...}}`` in mmseg's names.
        projs_path: ``<model>_clip_weights.pth``: ``{'clip': ..., 'proj': {'weight'}}`` of a ViT, or ``{'q_proj':
            {'weight', 'bias'}, ...}`` of a ResNet.

    Returns:
        float32; of a ResNet without ``attnpool.positional_embedding``, which the release does not hold.

    Raises:
        CheckpointError: the files are of another layout.
    """
    backbone, projs = read_published(backbone_path), read_published(projs_path)
    state = backbone.get('state_dict') if isinstance(backbone, dict) else None
    if not state or not all(k.startswith('backbone.') for k in state):
        raise CheckpointError(
            f"{backbone_path} is no backbone file of MaskCLIP: expected a 'state_dict' whose keys start with "
            "'backbone.'. Without visual_projs_path, pretrained takes CLIP's own files."
        )
    names = ('proj',) if isinstance(projs, dict) and 'proj' in projs else ('q_proj', 'k_proj', 'v_proj', 'c_proj')
    if not isinstance(projs, dict) or not all(isinstance(projs.get(n), dict) for n in names):
        raise CheckpointError(f"{projs_path} holds neither 'proj' nor 'q_proj', 'k_proj', 'v_proj' and 'c_proj'.")
    state = {k.removeprefix('backbone.'): v.float() for k, v in state.items()}
    matrices = {f'{n}.{k}': v.float() for n in names for k, v in projs[n].items()}
    matrices = {k: v.flatten(1) if v.ndim == 4 else v for k, v in matrices.items()}
    if names == ('proj',):
        state = {_rename(k, _VIT_KEYS): v for k, v in state.items()}
        for key in ('class_embedding', 'positional_embedding'):
            if key in state:
                state[key] = state[key].reshape(-1, state[key].shape[-1]).squeeze(0)
        return dict(state, proj=matrices['proj.weight'].T.contiguous())
    state = {_rename_resnet(k): v for k, v in state.items()}
    return {**state, **{f'attnpool.{k}': v for k, v in matrices.items()}}


def _rename(key: str, table: Sequence[tuple[str, str]]) -> str:
    for pattern, name in table:
        match = re.fullmatch(pattern, key)
        if match:
            return match.expand(name)
    return key


def _rename_resnet(key: str) -> str:
    stem = re.fullmatch(r'stem\.(\d+)\.(\w+)', key)
    if stem:
        return f'{_STEM.get(int(stem[1]), stem[1])}.{stem[2]}'
    # index 0 is the average pool there, which has no name here
    return re.sub(r'downsample\.(\d+)', lambda m: f'downsample.{int(m[1]) - 1}', key)
