"""The weight files of MaskCLIP's official release."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from torch import Tensor

from vlm_dense.clip.weight_files import read_weights
from vlm_dense.errors import CheckpointError

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
    backbone, projs = read_weights(backbone_path), read_weights(projs_path)
    state = backbone.get('state_dict') if isinstance(backbone, dict) else None
    if not state or not all(k.startswith('backbone.') for k in state):
        raise CheckpointError(
            f"{backbone_path} is no backbone file of MaskCLIP: expected a 'state_dict' with keys that start with "
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
