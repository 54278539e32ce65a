"""open_clip's models out of a config, whole or one side only; timm's trunks take images of any size."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from copy import deepcopy
from importlib.util import find_spec

import numpy as np
import timm
import torch
from open_clip.coca_model import CoCa
from open_clip.model import (
    CLIP,
    CLIPTextCfg,
    CLIPVisionCfg,
    CustomTextCLIP,
    _build_text_tower,
    _build_vision_tower,
)
from open_clip.timm_model import TimmModel
from timm.layers import Mlp
from torch import nn

from vlm_dense.clip import tiny_timm  # noqa: F401  registers trunks in timm
from vlm_dense.clip.tips import TIPSText, is_tips
from vlm_dense.errors import ConfigError, MissingLibraryError, WeightsNotFoundError
from vlm_dense.libraries import how_to_install

_STAND_IN = dict(layers=0, width=64, patch_size=8, image_size=8)
"""Config of an image tower that is replaced; open_clip's models build one in any case."""


class AnySizeTimmModel(TimmModel):
    """open_clip's ``TimmModel`` with a trunk that resizes its positions to each image; the same state-dict keys.

    Setting timm's flag later is not enough, as rotary positions are tables made in the constructor.
    """

    def __init__(self, vision: CLIPVisionCfg, embed_dim: int):
        nn.Module.__init__(self)
        size = vision.image_size
        self.image_size = (size, size) if isinstance(size, int) else tuple(size)
        pool, proj = vision.timm_pool, vision.timm_proj
        if pool in ('abs_attn', 'rot_attn') or proj not in ('linear', 'mlp', 'none', '', None):
            raise ConfigError(
                f'timm_pool={pool!r} with timm_proj={proj!r} is not supported: expected a pool of the trunk itself '
                "('', 'avg', 'token', 'map') and a projection 'linear', 'mlp', 'none' or None."
            )
        options = dict(num_classes=0 if proj else embed_dim)
        if pool:
            options['global_pool'] = pool
        if vision.timm_drop_path is not None:
            options['drop_path_rate'] = vision.timm_drop_path
        if vision.patch_dropout > 0:
            options['patch_drop_rate'] = vision.patch_dropout
        self.trunk = timm_trunk(vision.timm_model_name, **options)
        self.head = nn.Sequential()
        if proj == 'linear':
            self.head.add_module('drop', nn.Dropout(vision.timm_drop))
            self.head.add_module('proj', nn.Linear(self.trunk.num_features, embed_dim, bias=vision.timm_proj_bias))
        elif proj == 'mlp':
            width, bias = self.trunk.num_features, (True, vision.timm_proj_bias)
            self.head.add_module('mlp', Mlp(width, 2 * embed_dim, embed_dim, drop=(vision.timm_drop, 0), bias=bias))
        self.output_dim = embed_dim


def timm_trunk(name: str, **options) -> nn.Module:
    """A timm model without weights, for images of any size where it has a table of positions."""
    if not timm.is_model(name):
        raise ConfigError(f'timm {timm.__version__} has no model {name!r}. Install a version that has it.')
    try:
        trunk = timm.create_model(name, pretrained=False, dynamic_img_size=True, **options)
    except TypeError:  # no such argument: convolutions, which take any size, and towers of one size
        trunk = timm.create_model(name, pretrained=False, **options)
    return initialised(trunk)


def initialised(module: nn.Module) -> nn.Module:
    """The module, with a mark that mmengine's ``init_weights`` leaves it as it is.

    A runner calls ``init_weights`` of all parts of a model before the training. Many models of timm have a method of
    this name that draws their weights again, whatever was loaded.
    """
    module.is_init = True
    return module


class Side(nn.Module):
    """One side of a CLIP model, ``visual`` or ``text``, under the keys that ``CustomTextCLIP`` has.

    Beside ``text`` there are ``logit_scale`` and, for sigmoid losses, ``logit_bias``.
    """

    def __init__(self, **parts: nn.Module | nn.Parameter | None):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)

    @property
    def prefixes(self) -> tuple[str, ...]:
        """How the keys of this side begin."""
        return ('visual.',) if hasattr(self, 'visual') else ('text.', 'logit_')


def has_hf_text(config: dict) -> bool:
    """Whether the text tower is a model of Hugging Face's ``transformers``."""
    return bool(config['text_cfg'].get('hf_model_name'))


def build_visual(config: dict) -> nn.Module:
    """The image tower of a config, see :func:`vlm_dense.clip.architectures.model_config`; random weights."""
    vision = _dataclass(CLIPVisionCfg, config['vision_cfg'])
    if vision.timm_model_name:
        return AnySizeTimmModel(vision, config['embed_dim'])
    return _build_vision_tower(config['embed_dim'], vision, config.get('quick_gelu', False))


def build_text(config: dict) -> Side:
    """The text tower of a config, with ``logit_scale`` and ``logit_bias``; random weights.

    Raises:
        MissingLibraryError: it is a model of ``transformers``, which is not installed.
        WeightsNotFoundError: the config of such a model is not on this machine and cannot be had.
    """
    if is_tips(config):
        scale = nn.Parameter(torch.tensor(np.log(1 / 0.07), dtype=torch.float32))
        return Side(text=TIPSText(**config['text_cfg']), logit_scale=scale, logit_bias=None)
    text = _dataclass(CLIPTextCfg, {**config['text_cfg'], 'hf_model_pretrained': False})
    shape = [1] if config.get('nonscalar_logit_scale') else []
    bias = config.get('init_logit_bias')
    with _hf_errors(config):
        tower = _build_text_tower(config['embed_dim'], text, config.get('quick_gelu', False))
    return Side(
        text=tower,
        logit_scale=nn.Parameter(torch.ones(shape) * config.get('init_logit_scale', np.log(1 / 0.07))),
        logit_bias=None if bias is None else nn.Parameter(torch.ones(shape) * bias),
    )


def build_clip(config: dict) -> CLIP | CustomTextCLIP | CoCa:
    """The whole model of a config; random weights.

    Raises:
        MissingLibraryError, WeightsNotFoundError: as :func:`build_text`.
    """
    if is_tips(config):
        raise ConfigError(
            "TIPSv2's towers come one by one, in files of their own. Use type='vlm_dense.CLIPTower' with the file of "
            "the images and type='vlm_dense.TextTower' with that of the texts as pretrained."
        )
    config = deepcopy(config)
    custom, hf = config.pop('custom_text', False), has_hf_text(config)
    kind = CLIP if not (custom or hf) else CoCa if 'multimodal_cfg' in config else CustomTextCLIP
    if kind is not CoCa:
        config.pop('multimodal_cfg', None)
    of_timm = 'timm_model_name' in config['vision_cfg']
    visual = build_visual(config) if of_timm else None
    if of_timm:
        config['vision_cfg'] = dict(_STAND_IN)
    if hf:
        config['text_cfg']['hf_model_pretrained'] = False
    with _hf_errors(config):
        try:
            model = kind(**config)
        except TypeError as error:
            raise ConfigError(f'open_clip cannot build a model from this arch: {error}.') from error
    if of_timm:
        model.visual = visual
    return model


def _dataclass(kind: type, config: dict):
    try:
        return kind(**config)
    except TypeError as error:
        raise ConfigError(f'open_clip cannot build a model from this arch: {error}.') from error


@contextlib.contextmanager
def _hf_errors(config: dict) -> Iterator[None]:
    """What fails around a Hugging Face text tower, in words that name the way out; nothing for other towers."""
    name = config['text_cfg'].get('hf_model_name')
    if name and find_spec('transformers') is None:
        raise MissingLibraryError(
            f'The text tower of this arch is {name}, a model of Hugging Face, which needs their library transformers. '
            f"{how_to_install('hf')} Or choose an arch with a text tower of open_clip's, such as 'ViT-B-16'. The image "
            'tower alone needs no such library.'
        )
    try:
        yield
    except OSError as error:
        if not name:
            raise
        raise WeightsNotFoundError(
            f'The config of the text tower {name} is not on this machine and could not be downloaded '
            f"({type(error).__name__}). On a machine with a network run 'hf download {name} config.json' and copy the "
            "cache here, or choose an arch with a text tower of open_clip's, such as 'ViT-B-16'."
        ) from error
