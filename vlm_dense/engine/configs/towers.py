"""Another CLIP in a config: ``tower = 'siglip2-b16'`` in the file, or ``--cfg-options tower=siglip2-b16``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch

from vlm_dense.clip.architectures import model_config
from vlm_dense.clip.building import has_hf_text, timm_trunk
from vlm_dense.clip.preprocessing import TAG, Preprocessing, preprocessing_of
from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.clip.tower import implementation
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.engine.configs.tower_names import TOWERS
from vlm_dense.engine.messages import arguments_of
from vlm_dense.errors import ConfigError, unknown_name

MODELS_WITH_TOWERS = ('CLIPClassifier', 'MaskCLIP', 'LPOSS', 'DenseCLIP', 'CLIPEncoderDecoder')
"""Models of which the towers can be changed by name."""

_IMAGE_TOWERS = ('CLIPTower', 'CLIPViT', 'CLIPResNet', 'CLIPTimmViT', 'CLIPTimmMaps', 'MaskCLIPViT', 'MaskCLIPResNet')
_OF_A_RELEASE = {'type', 'act', 'ln_eps', 'double_class_embedding', 'out_indices', 'attnpool', 'attnpool_positions'}
"""Options that belong to the weights or to the depth of the tower that was there."""


def use_tower(cfg: MutableMapping, tower: str | Mapping) -> None:
    """Put another CLIP into both sides of the model of a config.

    The options of the image tower that the new one has as well are kept; those of the old one's release, and the
    choice of blocks, are not. A text context is as long as the weights want it where they read all of it. The data
    preprocessor and the crops of classification follow the tag of the weights, the neck the tower's channels, and
    DenseCLIP's score maps its stride.

    Args:
        cfg: Changed in place.
        tower: A name of :data:`~vlm_dense.engine.configs.tower_names.TOWERS`, or a dict of ``arch`` and
            ``pretrained``.

    Raises:
        ConfigError: no such name, or a model that has no two towers to change.
    """
    clip = _named(tower)
    model = cfg.get('model')
    _check_model(model, tower)
    backbone, kind = model['backbone'], implementation(clip['arch'])
    model['backbone'] = _image_tower(backbone, kind, clip)
    text = model.get('text_encoder')
    if text is not None:
        text.update(clip)
        config = model_config(clip['arch'])
        if _reads_everything(config):
            text.pop('context_length', None)
        cut_sentences(model.get('text_prompt') or {}, config)
    found = preprocessing_of(**clip)
    colours = dict(mean=TAG, std=TAG) if found else Preprocessing.of_openai(clip['arch']).colours
    for preprocessor in (model.get('data_preprocessor'), cfg.get('data_preprocessor')):
        if isinstance(preprocessor, MutableMapping):
            preprocessor.update(colours)
    if found and clip['pretrained'] != 'bundled':
        for step in _crops(cfg):
            step.update({key: TAG for key in ('size', 'interpolation') if key in step})
    _fit_maps(model, kind, clip['arch'])


def cut_sentences(prompt: MutableMapping, config: Mapping) -> None:
    """Let a zero-shot prompt cut its sentences where a text tower is short, as open_clip's tokenizers do.

    Args:
        prompt: Config of a text prompt, changed in place.
        config: Of the architecture.
    """
    if config['text_cfg'].get('context_length', 77) < 77 and str(prompt.get('type')).endswith('ZeroShotPrompt'):
        prompt['truncate'] = True


def _named(tower: str | Mapping) -> dict[str, str]:
    if isinstance(tower, Mapping):
        if set(tower) != {'arch', 'pretrained'}:
            raise ConfigError(
                f'tower={dict(tower)!r}: expected arch and pretrained. Write tower=dict(arch=..., pretrained=...), or '
                f'one of the names {", ".join(TOWERS)}.'
            )
        return dict(tower)
    if tower not in TOWERS:
        raise ConfigError(unknown_name(str(tower), 'towers', TOWERS))
    return dict(zip(('arch', 'pretrained'), TOWERS[tower], strict=True))


def _check_model(model: Any, tower: str | Mapping) -> None:
    def short(part: Mapping) -> str:
        return str(part.get('type')).rpartition('.')[2]

    if not isinstance(model, Mapping) or short(model) not in MODELS_WITH_TOWERS:
        found = short(model) if isinstance(model, Mapping) else 'none'
        raise ConfigError(
            f'tower={tower!r} changes the towers of {", ".join(MODELS_WITH_TOWERS)}; the model of this config is '
            f'{found}. Change arch and pretrained in it, and what depends on them.'
        )
    backbone = model.get('backbone') or {}
    if short(backbone) not in _IMAGE_TOWERS:
        raise ConfigError(
            f"tower={tower!r} changes a CLIP's image tower; model.backbone of this config is {short(backbone)}. Choose "
            'a config with a CLIP as backbone, or change model.text_encoder by its arch and pretrained.'
        )


def _image_tower(old: Mapping, kind: type, clip: Mapping) -> dict:
    was = str(old['type']).rpartition('.')[2]
    known = arguments_of(kind)
    new = {key: value for key, value in old.items() if key in known - _OF_A_RELEASE}
    if kind is not CLIPViT:
        new.pop('pos_mode', None)
    published = was.startswith('MaskCLIP')
    if published and kind in (CLIPViT, CLIPResNet):
        own = dict(act=None, ln_eps=None) if kind is CLIPViT else {}
        return dict(new, type=f'vlm_dense.Mask{kind.__name__}', **clip, **own)
    if published:
        new['frozen'] = True
    else:
        new['head'] = bool(old.get('head', old.get('attnpool', was == 'CLIPTower')))
    if new.get('with_cp') == 'light' and not kind.takes_tokens:
        new['with_cp'] = True
    if not kind.takes_tokens:
        new.pop('pyramid', None)
    return dict(new, type='vlm_dense.CLIPTower', **clip)


def _reads_everything(config: Mapping) -> bool:
    """Whether the text tower reads its whole context, or has a class token behind it, so that it cannot be cut."""
    text = config['text_cfg']
    return bool(text.get('no_causal_mask') or text.get('embed_cls') or has_hf_text(config))


def _crops(node: Any) -> Iterator[MutableMapping]:
    """Crops and resizing of classification anywhere in a config."""
    if isinstance(node, Mapping):
        if str(node.get('type')).endswith('TorchvisionTransforms'):
            yield from (step for step in node['transforms'] if isinstance(step, MutableMapping))
        node = node.values()
    if not isinstance(node, str) and hasattr(node, '__iter__'):
        for each in node:
            if not isinstance(each, str):
                yield from _crops(each)


def _fit_maps(model: MutableMapping, kind: type, arch: str | Mapping) -> None:
    """Channels of the neck, and the stage that DenseCLIP's score maps join."""
    blocks, neck = kind.takes_tokens, model.get('neck')
    if 'score_concat_index' in model:
        model['backbone'].update(dict(pyramid=True) if blocks else {})
        model['score_concat_index'] = 3 if not blocks else 1 if _patch(arch) == 8 else 2
    elif neck is not None and blocks:
        model['backbone']['pyramid'] = True
    if neck is not None and neck.get('in_channels') is not None:
        neck['in_channels'] = kind.stage_channels(model['backbone'])


def _patch(arch: str | Mapping) -> int:
    vision = model_config(arch)['vision_cfg']
    if not vision.get('timm_model_name'):
        return vision['patch_size']
    with torch.device('meta'):
        return timm_trunk(vision['timm_model_name']).feature_info[0]['reduction']
