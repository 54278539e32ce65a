"""MaskCLIP and its successors on any CLIP, by name and for images of any kind."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mmengine.config import Config

from vlm_dense.clip.architectures import model_config, of_repository
from vlm_dense.clip.preprocessing import Preprocessing, preprocessing_of
from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.clip.tower import implementation
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.datasets.scenes import SHAPES
from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.configs.names import BUNDLED, CONFIGS, existing_config
from vlm_dense.engine.configs.towers import cut_sentences
from vlm_dense.errors import ConfigError, unknown_name
from vlm_dense.zoo import DEFAULT_MODEL, MASKCLIP, METHODS, TOWERS, free_names

__all__ = [
    'DEFAULT_MODEL',
    'MASKCLIP',
    'METHODS',
    'TOWERS',
    'limits_of',
    'maskclip_config',
    'method_config',
    'note_on',
    'segmentor_config',
]

_SHORT_SIDE = dict(clearclip=448, lposs=448)
"""Short sides of images, in px; 336 for the others."""

_PUBLISHED_MEAN, _PUBLISHED_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def segmentor_config(name: str) -> Config:
    """The config of a name of :data:`MASKCLIP`, of ``<method>_<tower>``, MaskCLIP on the CLIP of a repository,
    ``'hf-hub:ORG/NAME'`` or ``'local-dir:FOLDER'``, or what
    :func:`vlm_dense.engine.configs.names.find_config` finds."""
    if name in MASKCLIP:
        return maskclip_config(*MASKCLIP[name])
    if of_repository(name):
        return maskclip_config(name, name)
    method, _, tower = name.rpartition('_')
    if method in METHODS and tower in TOWERS:
        return method_config(method, *TOWERS[tower])
    return load_config(str(existing_config(name, free_names())))


def method_config(method: str, arch: str = 'tiny-vit', pretrained: str = 'bundled') -> Config:
    """Config of MaskCLIP or one of its successors on a ViT of open_clip, for images of any kind.

    The settings are those of ``configs/_base_/models/<method>_vit-b16.py``, or ``<method>_tiny-vit.py`` on a bundled
    model. Second backbones are loaded as these files say.

    Args:
        method: One of :data:`METHODS`.
        arch, pretrained: As for :func:`vlm_dense.clip.load_clip`.

    Returns:
        A config with ``model`` and ``test_pipeline``; without class names.

    Raises:
        ConfigError: unknown method or architecture, or a ResNet for a method that needs a ViT.
    """
    if method not in METHODS:
        raise ConfigError(unknown_name(method, 'methods of segmentation without training', METHODS))
    if method == 'maskclip':
        return maskclip_config(arch, pretrained)
    kind = implementation(arch)
    if not kind.takes_tokens:
        name = 'ResNet' if kind is CLIPResNet else 'tower of maps, without blocks'
        raise ConfigError(f'{method} reads the attention of a ViT, and {arch} is a {name}. Choose a ViT, as ViT-B-16.')
    bundled = pretrained == 'bundled'
    path = CONFIGS / '_base_' / 'models' / f'{method}_{"tiny-vit" if bundled else "vit-b16"}.py'
    model = load_config(str(path)).model
    if (arch, pretrained) != TOWERS['vit-b16']:
        for part in (model.backbone, model.text_encoder):
            part.update(arch=arch, pretrained=pretrained)
        cut_sentences(model.text_prompt, model_config(arch))
    if kind is not CLIPViT:  # positions, norms and activation are the tower's own
        for name in ('act', 'ln_eps', 'pos_mode'):
            model.backbone.pop(name, None)
        model.backbone.update(type='vlm_dense.CLIPTower', frozen=True)
        model.data_preprocessor.update((preprocessing_of(arch, pretrained) or Preprocessing.of_openai(arch)).colours)
    scale = (384, 96) if bundled else (2048, _SHORT_SIDE.get(method, 336))
    steps = [dict(type='vlm_dense.LoadImage'), dict(type='Resize', scale=scale, keep_ratio=True)]
    steps.append(dict(type='PackSegInputs'))
    return Config(dict(default_scope='mmseg', model=model, test_pipeline=steps))


def maskclip_config(arch: str | dict, pretrained: str | None) -> Config:
    """Config of MaskCLIP on any CLIP of open_clip, for images of any kind.

    The published settings, as in ``configs/_base_/models/maskclip_vit-b16.py``: exact GELU, epsilon 1e-6, ImageNet's
    mean and deviation, images resized to a short side of 512 px, their long side at most 2048. Towers of timm's have
    their own activation and epsilon, and the mean and deviation of their weights. Bundled models get
    those of their training, a short side of 96 px, and masks refined on the image's own pixels (PAMR).

    Args:
        arch: As for :func:`vlm_dense.clip.load_clip`.
        pretrained: As for :func:`vlm_dense.clip.load_clip`.

    Returns:
        A config with ``model`` and ``test_pipeline``; without class names.

    Raises:
        ConfigError: unknown architecture.
    """
    bundled, clip = pretrained == 'bundled', dict(arch=arch, pretrained=pretrained)
    kind = implementation(arch)
    own = dict(type='vlm_dense.CLIPTower', frozen=True)
    if kind in (CLIPResNet, CLIPViT):
        own = dict(type=f'vlm_dense.{kind.__name__.replace("CLIP", "MaskCLIP")}')
        own |= dict(act=None, ln_eps=None) if bundled and kind is CLIPViT else {}
    colours = dict(mean=_PUBLISHED_MEAN, std=_PUBLISHED_STD)
    if bundled or kind not in (CLIPResNet, CLIPViT):
        colours = (preprocessing_of(arch, pretrained) or Preprocessing.of_openai(arch)).colours
    return Config(
        dict(
            default_scope='mmseg',
            model=dict(
                type='vlm_dense.MaskCLIP',
                data_preprocessor=dict(type='vlm_dense.MixedSizeSegDataPreProcessor', **colours, bgr_to_rgb=True),
                backbone=dict(**own, **clip),
                text_encoder=dict(type='vlm_dense.TextTower', **clip),
                postprocess=['vlm_dense.Probabilities', dict(type='vlm_dense.PAMR', iterations=10)] if bundled else [],
                test_cfg=dict(mode='whole', keep_logits=False),
            ),
            test_pipeline=[
                dict(type='vlm_dense.LoadImage'),
                dict(type='Resize', scale=(384, 96) if bundled else (2048, 512), keep_ratio=True),
                dict(type='PackSegInputs'),
            ],
        )
    )


def note_on(limits: str | None, names: Sequence[str]) -> str | None:
    """A line for results of a model with limits, to stand in the image and beside the figures.

    Args:
        limits: Of the model, as of :func:`limits_of`; None: it has none.
        names: A name of each class.

    Returns:
        None if all names are those of drawn shapes, of what is behind them or of everything.
    """
    known = {*SHAPES, 'background', 'shape', 'scene'}
    unknown = [name for name in names if limits and not known & set(name.lower().split())]
    if not unknown:
        return None
    told = ', '.join(map(repr, unknown[:3])) + (f' and {len(unknown) - 3} more' if len(unknown) > 3 else '')
    return f'Not meaningful: this model knows drawn shapes only, not {told}.'


def limits_of(cfg: Config, weights: str | os.PathLike | None = None) -> str | None:
    """Limitations of a model, for the user; ``None`` if there are none.

    Args:
        cfg: Its config.
        weights: Its checkpoint; ``bundled://NAME`` is one that comes with the package.
    """
    clip = cfg.model.get('backbone') or {}
    if weights is None and clip.get('pretrained') == 'bundled':
        return (
            f'The bundled {clip.arch} only knows drawn shapes: {", ".join(SHAPES)}. On photographs its masks mean '
            'nothing; use a large CLIP for them, such as the model maskclip_vit-b16.'
        )
    if isinstance(weights, str) and weights.startswith(BUNDLED):
        return (
            f'The weights of {weights.removeprefix(BUNDLED)} that come with vlm_dense were trained on drawn shapes '
            'only. On photographs what they find means nothing; train the model on images of your kind for them.'
        )
    return None
