"""Preparation of images that weights were trained with: it belongs to their tag, never to the architecture's name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import open_clip
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from vlm_dense.clip.architectures import model_config, of_repository, repository_config, standard_name
from vlm_dense.clip.tips import ARCHITECTURES as TIPS
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

TAG = 'tag'
"""Value of ``mean``, ``std``, ``size`` and ``interpolation`` in a config that stands for those of the weights."""
_CLOSE = 0.51  # of 255: published configs round


@dataclass(frozen=True)
class Preprocessing:
    """How images are prepared for published weights.

    Attributes:
        mean, std: Of the channels R, G, B between 0 and 1.
        interpolation: ``'bicubic'`` or ``'bilinear'``.
        resize_mode: ``'shortest'``: the short side becomes ``size``, then the middle is cut out; ``'squash'``: both
            sides become ``size``; ``'longest'``.
        size: Side in pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    resize_mode: str
    size: int

    @classmethod
    def of_openai(cls, arch: str | Mapping) -> Preprocessing:
        """What OpenAI's weights were trained with, for towers of which nobody says it."""
        entry = dict(mean=OPENAI_DATASET_MEAN, std=OPENAI_DATASET_STD, interpolation='bicubic', resize_mode='shortest')
        return _of_entry(arch, entry)

    @property
    def colours(self) -> dict[str, list[float]]:
        """``mean`` and ``std`` of values between 0 and 255, as data preprocessors take them."""
        return {name: [255 * x for x in getattr(self, name)] for name in ('mean', 'std')}

    def resizing(self) -> list[dict]:
        """Transforms of torchvision's names that bring a whole image to the tower's size."""
        if self.resize_mode == 'squash':
            return [dict(type='Resize', size=[self.size] * 2, interpolation=self.interpolation)]
        return [
            dict(type='Resize', size=self.size, interpolation=self.interpolation),
            dict(type='CenterCrop', size=self.size),
        ]


def preprocessing_of(arch: str | Mapping, pretrained: str | None) -> Preprocessing | None:
    """How images are prepared for weights; None if nobody says so.

    Weights from a file have no tag. If all tags of their architecture agree, theirs is taken.

    Args:
        arch, pretrained: As for :func:`vlm_dense.clip.load_clip`.
    """
    if not isinstance(arch, str) or pretrained is None:
        return None
    if of_repository(pretrained):
        entry = repository_config(pretrained).get('preprocess_cfg')
        return None if entry is None else _of_entry(arch, dict(interpolation='bicubic', resize_mode='shortest') | entry)
    arch = standard_name(arch)
    if arch in TIPS:
        return Preprocessing((0.0,) * 3, (1.0,) * 3, 'bicubic', 'shortest', TIPS[arch]['vision_cfg']['image_size'])
    tags = open_clip.list_pretrained_tags_by_model(arch)
    own = open_clip.get_pretrained_cfg(arch, str(pretrained)) if tags else None
    entries = [own] if own else [open_clip.get_pretrained_cfg(arch, tag) for tag in tags]
    found = {_of_entry(arch, entry) for entry in entries}
    return found.pop() if len(found) == 1 else None


def _of_entry(arch: str | Mapping, entry: Mapping[str, Any]) -> Preprocessing:
    size = model_config(arch)['vision_cfg'].get('image_size', 224)
    size = size if isinstance(size, int) else size[0]
    return Preprocessing(tuple(entry['mean']), tuple(entry['std']), entry['interpolation'], entry['resize_mode'], size)


def follow_tag(cfg: MutableMapping) -> None:
    """Put in the numbers of the weights where a config says ``'tag'``.

    ``mean`` and ``std`` of the data preprocessor, ``interpolation`` and ``size`` anywhere in the pipelines; a
    ``Resize`` to ``size='tag'`` squashes the image for weights that were trained so.

    Args:
        cfg: A whole config with ``model``, which is changed.

    Raises:
        ConfigError: it says ``'tag'`` and the weights of ``model.backbone`` have none, or other colours than they.
    """
    asked, model = list(_asked(cfg, '')), cfg.get('model')
    backbone = model.get('backbone') or {} if isinstance(model, Mapping) else {}
    if not asked:
        if isinstance(model, Mapping) and isinstance(backbone, Mapping):
            colours_of_tag(model.get('data_preprocessor') or cfg.get('data_preprocessor'), backbone, model.get('type'))
        return
    found = preprocessing_of(backbone.get('arch'), backbone.get('pretrained'))
    if found is None:
        raise _no_tag(asked[0][2], backbone)
    for node, key, _ in asked:
        if key in ('mean', 'std'):
            node[key] = found.colours[key]
        elif key == 'interpolation':
            node[key] = found.interpolation
        else:
            squash = found.resize_mode == 'squash' and str(node.get('type', '')).endswith('Resize')
            node[key] = [found.size] * 2 if squash else found.size


def _asked(node: Any, path: str) -> Iterator[tuple[MutableMapping, str, str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            here = f'{path}.{key}'.lstrip('.')
            if isinstance(value, str) and value == TAG and key in ('mean', 'std', 'interpolation', 'size'):
                yield node, key, here
            else:
                yield from _asked(value, here)
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _asked(value, f'{path}.{i}')


def colours_of_tag(preprocessor: Mapping | None, backbone: Mapping, owner: str | type | None = None) -> Mapping | None:
    """The config of a data preprocessor with the mean and deviation of the weights, if it says ``'tag'``.

    Args:
        preprocessor: Its config; None or a module is given back.
        backbone: Config of the image tower.
        owner: Type of the model.

    Raises:
        ConfigError: it contradicts the tag of the weights, or it says ``'tag'`` and they have none. Towers and models
            with the settings of a release (``published_colours``) may have its colours.
    """
    if not isinstance(preprocessor, Mapping):
        return preprocessor
    found = preprocessing_of(backbone.get('arch'), backbone.get('pretrained'))
    asked = [key for key in ('mean', 'std') if isinstance(preprocessor.get(key), str) and preprocessor[key] == TAG]
    if asked and found is None:
        raise _no_tag(f'data_preprocessor.{asked[0]}', backbone)
    if asked:
        return type(preprocessor)({**preprocessor, **{key: found.colours[key] for key in asked}})
    arch = standard_name(str(backbone.get('arch')))
    named = found is not None and backbone['pretrained'] in open_clip.list_pretrained_tags_by_model(arch)
    kinds = [kind for kind in (backbone.get('type'), owner) if kind] if named else []
    kinds = [MODELS.get(kind) if isinstance(kind, str) else kind for kind in kinds]  # of mmseg or mmdet as well
    if not named or any(getattr(kind, 'published_colours', False) for kind in kinds):
        return preprocessor
    for key in ('mean', 'std'):
        given = preprocessor.get(key)
        if given is not None and not _equal(given, found.colours[key]):
            raise ConfigError(
                f'data_preprocessor.{key}={_rounded(given)} contradicts the weights {arch}, '
                f'{backbone["pretrained"]!r}, which were trained with {_rounded(found.colours[key])}. Write '
                "mean='tag', std='tag' in data_preprocessor to take those of the weights."
            )
    return preprocessor


def _rounded(values) -> list[float]:
    return [round(float(x), 2) for x in (values if isinstance(values, (list, tuple)) else [values])]


def _equal(found, wanted) -> bool:
    found = list(found) if isinstance(found, (list, tuple)) else [found] * 3
    return len(found) == len(wanted) and all(abs(a - b) <= _CLOSE for a, b in zip(found, wanted, strict=True))


def _no_tag(key: str, backbone: Mapping) -> ConfigError:
    arch, pretrained = backbone.get('arch'), backbone.get('pretrained')
    return ConfigError(
        f"{key}='tag' stands for what the weights were trained with, which nobody says of arch={arch!r}, "
        f"pretrained={pretrained!r}. Name a tag of open_clip's as pretrained of model.backbone, or write the values."
    )
