"""(architecture, pretrained) -> CLIP model."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from open_clip.convert import convert_state_dict, load_big_vision_weights
from open_clip.model import CLIP, CustomTextCLIP, convert_to_custom_text_state_dict
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from vlm_dense.clip.activation import OPENAI_ENTRIES, decide_gelu
from vlm_dense.clip.architectures import image_tower_kind, model_config, standard_name
from vlm_dense.clip.building import Side, build_clip, build_text, build_visual, has_hf_text
from vlm_dense.clip.eva_release import convert_eva, is_eva_release
from vlm_dense.clip.fit import check_fit
from vlm_dense.clip.image_tower import resize_positions
from vlm_dense.clip.recent_file import read_once
from vlm_dense.clip.sources import locate_weights
from vlm_dense.clip.tips import converted, is_tips
from vlm_dense.clip.tokenizer import tokenize
from vlm_dense.clip.weight_files import allowed_in_pickles, read_nested, read_state_dict, read_tensor
from vlm_dense.errors import CheckpointError, ConfigError

__all__ = [
    'allowed_in_pickles',
    'check_fit',
    'load_clip',
    'load_text',
    'load_visual',
    'model_config',
    'read_nested',
    'read_state_dict',
    'read_tensor',
    'resize_positions',
    'tokenize',
]

POSITION_GRIDS = ('visual.positional_embedding', 'visual.attnpool.positional_embedding')
"""Tables (1 + side * side, width) of the ViT and of the attention pool; row 0 has no place."""


def load_clip(
    arch: str | Mapping,
    pretrained: str | os.PathLike | None = None,
    *,
    image_size: int | None = None,
    quick_gelu: bool | None = None,
) -> nn.Module:
    """Build a CLIP model and load its weights.

    QuickGELU or GELU? OpenAI trained with QuickGELU, most of the others with
    GELU, and the weights alone do not tell. The first of these that applies
    decides, and the log says which did:

    1. ``quick_gelu``, if given;
    2. the architecture: ``'...-quickgelu'``, or ``quick_gelu`` in its config;
    3. for a tag, what open_clip's table of weights says;
    4. a file that is OpenAI's release uses QuickGELU: a TorchScript archive, a
       state dict that holds ``input_resolution``, ``context_length`` or
       ``vocab_size``, or one in float16 in a file named as OpenAI's;
    5. an architecture of which all published weights use QuickGELU (RN50, ...)
       uses it too;
    6. otherwise GELU.

    Args:
        arch: open_clip name (``'RN50'``, ``'ViT-B-16'``; ``'ViT-B/16'`` is
            the same), bundled name (``'tiny-rn'``, ``'tiny-vit'``,
            ``'tiny-siglip'``, ``'tiny-convnext'``), a dict
            in open_clip's model-config format, or a repository with such a
            config, ``'hf-hub:ORG/NAME'`` or ``'local-dir:FOLDER'``.
        pretrained: None for random weights (torch's global generator), an
            open_clip tag (``'openai'``, ``'laion2b_s34b_b88k'``),
            ``'bundled'``, a repository as of ``arch``, or the path of a file
            that :func:`read_state_dict` reads.
        image_size: Side of the input images in pixels, if it is to differ
            from the architecture's: the grid of position embeddings is then
            resized, bilinearly (DenseCLIP).
        quick_gelu: Overrules the rule above.

    Returns:
        ``open_clip.model.CLIP``, ``CustomTextCLIP`` or ``CoCa``, float32, on
        the CPU, in eval mode.

    Raises:
        ConfigError: unknown architecture or tag, or a config that open_clip
            cannot build.
        WeightsNotFoundError: the weights are neither on disk nor to be had.
        CheckpointError: the file is damaged, foreign, holds code, or does not
            fit the architecture.
        MissingLibraryError: the text tower is a model of ``transformers``,
            which is not installed.
    """
    config, *rest = _locate(arch, pretrained, image_size, quick_gelu)
    model = build_clip(config)
    _fill(model, *rest, image_size, config)
    return model.eval()


def load_visual(
    arch: str | Mapping,
    pretrained: str | os.PathLike | None,
    image_size: int | None,
    kind: type | tuple[type, ...],
    owner: str,
    **vision: object,
) -> nn.Module:
    """The image tower of a CLIP model, see :func:`load_clip`; its text tower is not built.

    Args:
        arch, pretrained, image_size: See :func:`load_clip`.
        kind: Of open_clip's image towers, the ones that are wanted.
        owner: Name of the component that wants it, for the message.
        **vision: What to change in the config's ``vision_cfg``.

    Raises:
        ConfigError: it is of another kind.
    """
    config, *rest = _locate(arch, pretrained, image_size, None)
    config['vision_cfg'].update(vision)
    kinds = kind if isinstance(kind, tuple) else (kind,)
    found = image_tower_kind(config)
    if found not in kinds:
        other = {VisionTransformer: 'CLIPViT', ModifiedResNet: 'CLIPResNet'}.get(found, 'CLIPTower')
        raise ConfigError(
            f'{owner}: the image tower of {arch!r} is a {found.__name__}, expected a '
            f"{' or a '.join(each.__name__ for each in kinds)}. Use type='vlm_dense.{other}'."
        )
    side = Side(visual=build_visual(config))
    if _is_plain(config):
        build_text(config)  # for its draws, see _is_plain
    _fill(side, *rest, image_size, config)
    return side.visual.eval()


def load_text(
    arch: str | Mapping, pretrained: str | os.PathLike | None = None, *, quick_gelu: bool | None = None
) -> Side:
    """The text tower of a CLIP model, see :func:`load_clip`; its image tower is not built.

    Returns:
        Module with ``text``, open_clip's ``TextTransformer`` or ``HFTextEncoder``, ``logit_scale`` and ``logit_bias``
        (None but for towers trained with a sigmoid loss); float32, on the CPU, in eval mode.

    Raises:
        As :func:`load_clip`, and MissingLibraryError: the text tower is a model of ``transformers``, which is not
        installed.
    """
    config, *rest = _locate(arch, pretrained, None, quick_gelu)
    if _is_plain(config):
        build_visual(config)  # for its draws, see _is_plain
    side = build_text(config)
    _fill(side, *rest, None, config)
    return side.eval()


def _is_plain(config: dict) -> bool:
    """Whether both towers are those of OpenAI's kind.

    These take the random numbers of the whole model, whichever side is wanted: what is drawn after them, as the heads
    of a model, then depends on the seed and the architecture alone, and stays as in earlier versions.
    """
    special = has_hf_text(config) or 'multimodal_cfg' in config
    return not special and image_tower_kind(config) is not TimmModel


def _locate(arch, pretrained, image_size, quick_gelu) -> tuple[dict, dict[str, Tensor], Path | None, str]:
    """Config of the architecture, state dict of the weights ({} without), their file, and why (not) QuickGELU."""
    if isinstance(arch, str):
        arch = standard_name(arch)
    config = model_config(arch)
    if image_size is not None:
        config['vision_cfg']['image_size'] = image_size
    path, tag_config = locate_weights(arch, config, pretrained)
    state_dict = read_once(path) if path else {}
    config['quick_gelu'], why = decide_gelu(arch, config, quick_gelu, tag_config, path, state_dict)
    return config, state_dict, path, why


def _fill(
    model: nn.Module, state_dict: dict[str, Tensor], path: Path | None, why: str, image_size: int | None, config: dict
) -> None:
    """Load the weights, if there are any, and bring timm's positions to another image size."""
    if path:
        if is_tips(config):
            state_dict = converted(state_dict)
        elif _is_big_vision(state_dict):
            state_dict = _of_big_vision(config, path)
        _load(model, state_dict, path, image_size)
        activation = 'QuickGELU' if config['quick_gelu'] else 'GELU'
        _tell(f'CLIP weights from {path}, with {activation}: {why}.')
    trunk = getattr(getattr(model, 'visual', None), 'trunk', None)
    if image_size is not None and hasattr(trunk, 'set_input_size'):
        trunk.set_input_size((image_size, image_size))


@lru_cache(maxsize=64)
def _tell(what: str) -> None:
    """Log a line, once a process: both towers of a model have the same weights."""
    print_log(what, logger='current', level=logging.INFO)


def _load(model: nn.Module, state_dict: dict[str, Tensor], path: Path, image_size: int | None) -> None:
    """Load a state dict whole or not at all, or its part for one side; float16 becomes float32 in the copy."""
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    computed = {key for key, _ in model.named_buffers()} - set(shapes)  # the causal mask, which archives hold as well
    computed |= {*OPENAI_ENTRIES, 'attn_mask', 'text.attn_mask', 'text.transformer.embeddings.position_ids'}
    state_dict = {key: value for key, value in state_dict.items() if key not in computed}
    for table in ('token_embedding', 'text.token_embedding'):
        if f'{table}.ids' in state_dict:
            shape = shapes.get('token_embedding.weight', shapes.get('text.token_embedding.weight'))
            state_dict = _whole_token_table(state_dict, table, shape, path)
    if is_eva_release(state_dict):
        state_dict = convert_eva(state_dict)
    state_dict = convert_state_dict(model, state_dict)
    if not isinstance(model, CLIP):
        state_dict = convert_to_custom_text_state_dict(state_dict)
    if isinstance(model, Side):  # the other side is no business of this one, as long as this one is there
        own = {key: value for key, value in state_dict.items() if key.startswith(model.prefixes)}
        state_dict = own or state_dict
    for key in ('logit_scale', 'logit_bias'):  # () or (1,)
        if key in state_dict and key in shapes and state_dict[key].numel() == 1:
            state_dict[key] = state_dict[key].reshape(shapes[key])
    if 'logit_bias' in shapes and 'logit_scale' in state_dict:  # weights of an earlier training without it
        state_dict.setdefault('logit_bias', torch.zeros(shapes['logit_bias']))
    for key in POSITION_GRIDS:
        if key in state_dict and key in shapes:
            state_dict[key] = _fit_grid(state_dict[key], shapes[key], path, image_size)
    check_fit(state_dict, model.state_dict(), path)
    model.load_state_dict(state_dict)


def _is_big_vision(state_dict: dict[str, Tensor]) -> bool:
    return any(key.removeprefix('params/').startswith(('img/', 'txt/')) for key in state_dict)


def _of_big_vision(config: dict, path: Path) -> dict[str, Tensor]:
    """Weights of a SigLIP in big_vision's names, as open_clip converts them into a whole model."""
    model = build_clip(config)
    if not isinstance(model, CustomTextCLIP) or model.logit_bias is None or image_tower_kind(config) is not TimmModel:
        raise CheckpointError(
            f'{path} is a SigLIP of big_vision, and the architecture has other towers. Name one of those '
            "of open_clip with SigLIP in it, such as 'ViT-B-16-SigLIP2'."
        )
    try:
        load_big_vision_weights(model, str(path))
    except (KeyError, IndexError, AssertionError, RuntimeError) as error:
        raise CheckpointError(
            f'{path} does not fit as a SigLIP of big_vision: {str(error).splitlines()[0]} Choose the architecture of '
            'its size, patch and resolution.'
        ) from error
    return model.state_dict()


def _fit_grid(table: Tensor, shape: torch.Size, path: Path, image_size: int | None) -> Tensor:
    """The table, resized if only its grid differs and another image size was asked for."""
    if table.ndim != 2 or table.shape[1:] != shape[1:] or len(table) == shape[0]:
        return table
    found, expected = math.isqrt(len(table) - 1), math.isqrt(shape[0] - 1)
    if found**2 + 1 != len(table):
        return table
    if image_size is None:
        raise CheckpointError(
            f'{path} has positions for {found} x {found} places, the architecture for {expected} x {expected}: it was '
            'trained at another image size. Pass image_size= to have the positions resized to that size.'
        )
    return resize_positions(table.float(), (expected, expected))


@lru_cache(maxsize=1)  # 25 MB; both towers of a model need it, and drawing it takes most of the time of loading one
def _drawn_tokens(vocab_size: int, width: int) -> Tensor:
    draw, table = np.random.RandomState(0), np.empty((vocab_size, width), np.float32)
    for rows in np.array_split(table, 16):  # a float64 table of all would be the peak memory of small programs
        rows[:] = draw.standard_normal(rows.shape) * 0.02
    return torch.from_numpy(table)


def _whole_token_table(
    state_dict: dict[str, Tensor], name: str, shape: torch.Size | None, path: Path
) -> dict[str, Tensor]:
    """Expand the token table of the bundled models, which store only the rows that were trained.

    The others are drawn, the same on every machine: the whole table from
    ``numpy.random.RandomState(0)``, normal with deviation 0.02; then the trained
    rows are written over it.
    """
    state_dict = dict(state_dict)
    ids, rows = state_dict.pop(f'{name}.ids'), state_dict.pop(f'{name}.rows')
    if shape is None:  # the image tower alone
        return state_dict
    vocab_size = shape[0]
    if len(ids) != len(rows) or (len(ids) and int(ids.max()) >= vocab_size):
        raise CheckpointError(
            f'{path}: expected one row of {name}.rows for each of {name}.ids below {vocab_size}, '
            f'found {len(rows)} rows and {len(ids)} ids up to {int(ids.max())}.'
        )
    table = _drawn_tokens(vocab_size, rows.shape[1]).clone()
    table[ids.long()] = rows.float()
    state_dict[f'{name}.weight'] = table
    return state_dict
