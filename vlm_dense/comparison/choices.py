"""The choices behind a figure: collected from a config and, where it is built, the model, under fixed names.

Two tests of one method differ by many points for reasons that no table names: lists of class names, a threshold, the
size of images. :func:`choices` collects all of them; :data:`ORDER` says how much each has been seen to move.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS
from torch import nn

import vlm_dense
from vlm_dense.clip.activation import decide_gelu
from vlm_dense.clip.architectures import model_config, standard_name
from vlm_dense.clip.digest import weights_digest
from vlm_dense.comparison.origin import SUFFIXES, code_digest, file_digest
from vlm_dense.datasets.config_checks import class_names, leaves
from vlm_dense.errors import ClassNamesError, DataError
from vlm_dense.methods.maskclip import MaskCLIP
from vlm_dense.methods.maskclip.head import build_refinements
from vlm_dense.methods.maskclip.refinements import Background, NamedBackground
from vlm_dense.registry import registered
from vlm_dense.segmentation.postprocess import build_step
from vlm_dense.segmentation.steps import Step
from vlm_dense.vocabulary.class_names import as_class_names
from vlm_dense.vocabulary.templates import MASKCLIP_TEMPLATES, read_templates


class Moved(NamedTuple):
    """A choice and how much it has moved figures.

    Attributes:
        name: Key of the choice, or what its keys begin with.
        what: Words for it.
        seen: Published observation of how much it moved; empty where there is none.
    """

    name: str
    what: str
    seen: str = ''


ORDER = (
    Moved('data', 'the images'),
    Moved('labels', 'labels that are ignored or shifted', 'an offset of one: near 0 (a rerun on COCO-Stuff)'),
    Moved(
        'background.threshold',
        'below this probability a pixel is class 0',
        '0.07 mIoU where class 0 is no background (SCLIP issue 2); 16.2 of CLIP on VOC21 needs it (ClearCLIP issue 2)',
    ),
    Moved('tower', 'image tower and weights', "MaskCLIP's B/32 and L/14 have less than half of B/16 (its issue 5)"),
    Moved(
        'method', 'the model and its last block', 'ADE20K 9.1 instead of 16.7 (ClearCLIP issue 3, the attention unset)'
    ),
    Moved('size', 'size of images', 'with windows, names and threshold SCLIP on VOC21: 59.1 or 51.4'),
    Moved('windows', 'windows and their stride', 'see size'),
    Moved('pamr', 'refinement on the pixels', 'NACLIP: +5.2 on VOC21, +1.7 on ADE20K'),
    Moved('background.names', 'names of the background', 'see names'),
    Moved('names', 'class names and synonyms', 'NACLIP on VOC20: 78.0 with plain names, 80.6 with synonyms'),
    Moved('area_threshold', 'classes with a small area are removed'),
    Moved('denoising', 'classes that are nowhere probable are removed'),
    Moved('smoothing', 'smoothing by keys'),
    Moved('temperature', 'inverse temperature of the softmax'),
    Moved('templates', 'sentences around the names'),
    Moved('prompt', 'the text prompt'),
    Moved('aliases', 'score of a class with several names'),
    Moved('positions', 'positions at another size, and pixels beyond the last patch'),
    Moved('steps', 'other steps between maps and labels'),
    Moved('colours', 'mean, deviation and order of channels'),
    Moved('pipeline', 'other transforms of images'),
    Moved('precision', 'number format'),
    Moved('code', 'version of the code'),
)
"""The choices, those that usually move figures most first. Those without an observation follow by our judgement."""

_KNOWN = ('type', 'data_preprocessor', 'backbone', 'text_encoder', 'text_prompt', 'class_names', 'decode_head')
_KNOWN += ('postprocess', 'test_cfg', 'train_cfg', 'variants', 'init_cfg', 'pretrained')
_PLACES = ('pipeline', 'data_root', 'metainfo', 'lazy_init', 'serialize_data', 'backend_args')
_READING = ('Load', 'Pack', 'Check', 'DrawScene')


def choices(cfg: Config, model: nn.Module | None = None, images: Sequence[Mapping] | None = None) -> dict[str, Any]:
    """All that a figure of a test depends on.

    Args:
        cfg: Of the test, as the programs read it.
        model: Built from it, with the weights that are tested; without it the activation is that of the tag, and there
            is no digest of weights.
        images: Data infos of the images that are tested, see :func:`infos_of`; without them nothing is said of them.

    Returns:
        Dict of what JSON has, with the keys of :data:`ORDER` before a dot. A list of texts stands with its ``digest``.
    """
    whole = cfg.model.to_dict() if hasattr(cfg.model, 'to_dict') else dict(cfg.model)
    tta = 'module' in whole
    node = whole['module'] if tta else whole
    model = getattr(model, 'module', model) if tta else model
    found = dict(
        data=_data(cfg, images),
        labels=_labels(cfg),
        tower=_tower(node, model),
        **_decisions(cfg, node, _learned(model)),
        size=[t for t in _transforms(cfg) if 'Resize' in t['type']],
        pipeline=[t for t in _transforms(cfg) if 'Resize' not in t['type']],
        windows=_windows(node, tta),
        colours=_rounded({k: (node.get('data_preprocessor') or {}).get(k) for k in ('mean', 'std', 'bgr_to_rgb')}),
        precision=_precision(cfg, model),
        code=dict(version=vlm_dense.__version__, digest=code_digest()[:12], torch=torch.__version__.partition('+')[0]),
    )
    return plain(found)


# --- data -----------------------------------------------------------------------------------------------------


def _leaf(cfg: Config) -> dict:
    loader = cfg.get('test_dataloader') or {}
    return next((leaf for _, leaf in leaves(loader.get('dataset') or {}, '')), {})


def infos_of(dataset: Any, indices: Iterable[int] | None = None) -> list[dict]:
    """Data infos of a data set, in order; of the images of ``indices`` only, if given."""
    indices = range(len(dataset)) if indices is None else indices
    return [dataset.get_data_info(i) for i in indices] if hasattr(dataset, 'get_data_info') else []


def _data(cfg: Config, images: Sequence[Mapping] | None) -> dict:
    leaf = _leaf(cfg)
    found = dict(set={k: _name(v) if k == 'type' else v for k, v in leaf.items() if k not in _PLACES})
    if images:
        root = leaf.get('data_root') or ''
        told = [{k: _below(v, root) for k, v in info.items() if isinstance(v, (str, int))} for info in images]
        found['images'] = dict(number=len(images), digest=digest(told))
    return found


def _below(value: Any, root: str) -> Any:
    """A path without the folder of the data, which is another on each machine."""
    if isinstance(value, str) and root and value.startswith(root):
        return Path(value).relative_to(root).as_posix()
    return value


def _labels(cfg: Config) -> dict:
    leaf = _leaf(cfg)
    metrics = cfg.get('test_evaluator') or []
    ignored = [m.get('ignore_index', 255) for m in (metrics if isinstance(metrics, (list, tuple)) else [metrics])]
    names = _names_of_data(cfg)
    kind = registered(DATASETS, leaf['type']) if leaf else None
    zero = leaf.get('reduce_zero_label', _default(kind, 'reduce_zero_label'))
    return dict(
        classes=None if names is None else len(names), ignored=(ignored or [255])[0], zero_is_ignored=bool(zero)
    )


def _names_of_data(cfg: Config) -> Sequence[str] | None:
    """Class names of the data, which need not be there; None if they are in files that are not."""
    leaf = _leaf(cfg)
    given = (leaf.get('metainfo') or {}).get('classes')
    try:
        return given or class_names(cfg, ('test_dataloader',))
    except (AssertionError, FileNotFoundError, ClassNamesError, DataError):  # names, or images, are in files
        return registered(DATASETS, leaf['type']).METAINFO.get('classes')


def _default(kind: type | None, name: str) -> Any:
    """Default of an argument of a class, of the first of its bases that has it."""
    for cls in kind.__mro__ if kind else ():
        parameter = inspect.signature(cls.__init__).parameters.get(name)
        if parameter is not None and parameter.default is not parameter.empty:
            return parameter.default
    return None


def positions(backbone: Mapping[str, Any]) -> dict[str, str | None]:
    """``pos_mode`` and ``remainder`` of an image tower's config."""
    kind = registered(MODELS, backbone['type']) if 'type' in backbone else None
    return {name: backbone.get(name, _default(kind, name)) for name in ('pos_mode', 'remainder')}


def _transforms(cfg: Config) -> list[dict]:
    """The transforms of test images without those that read, check or pack."""
    found = [dict(t, type=_name(t['type'])) for t in _leaf(cfg).get('pipeline') or ()]
    return [t for t in found if not t['type'].startswith(_READING)]


# --- towers ---------------------------------------------------------------------------------------------------


def _tower(node: dict, model: nn.Module | None) -> dict:
    backbone, text = dict(node.get('backbone') or {}), node.get('text_encoder') or {}
    found = dict(type=_name(backbone.pop('type', None)), arch=backbone.pop('arch', None))
    found['weights'] = _weights(backbone.pop('pretrained', None))
    built = getattr(model, 'backbone', None)
    found['activation'] = _activation(found['arch'], found['weights'], backbone.pop('act', 'of type'), found['type'])
    if built is not None:
        kinds = {type(module).__name__ for module in built.modules()}
        found['activation'] = next((k for k in ('QuickGELU', 'GELU') if k in kinds), found['activation'])
        own = {name: p for name, p in built.named_parameters() if not name.startswith('dense_attention.')}
        found['digest'] = _digest_of(own)
    image = (found['arch'], found['weights'])
    other = (text.get('arch', image[0]), _weights(text.get('pretrained', image[1])))
    if other != image:
        found['text'] = dict(arch=other[0], weights=other[1])
    for name in ('dense_attention', 'pos_mode', 'remainder'):
        backbone.pop(name, None)
    return found | ({'options': backbone} if backbone else {})


def _digest_of(parameters: Mapping[str, nn.Parameter]) -> str | None:
    """Digest of numbers alone, whatever the settings of their modules; None without any."""
    return weights_digest(*(p for _, p in sorted(parameters.items())))[:12] if parameters else None


def _learned(model: nn.Module | None) -> str | None:
    """Digest of the parameters of a model beside its towers: heads, learned prompts, second backbones."""
    if model is None:
        return None
    named = {k: p for k, p in model.named_parameters() if 'text_encoder.' not in k}
    tower = 'backbone.dense_attention.'
    return _digest_of({k: p for k, p in named.items() if not k.startswith('backbone.') or k.startswith(tower)})


def _weights(tag: Any) -> Any:
    """A tag; a file of weights or sentences by its name and the digest of its content."""
    if isinstance(tag, (str, PathLike)) and fspath(tag).endswith((*SUFFIXES, '.json')):
        path = Path(tag)
        if path.is_file():
            stat = path.stat()
            return f'{path.name} {file_digest(str(path), stat.st_mtime_ns, stat.st_size).hex()[:12]}'
        return path.name
    return tag


def _activation(arch: Any, weights: Any, act: str | None, kind: str | None) -> str | None:
    """The activation that a tower has, by its config and open_clip's table alone."""
    if act not in (None, 'of type'):
        return str(act)
    if act == 'of type' and kind == 'MaskCLIPViT':
        return 'GELU'
    if not isinstance(arch, str):
        return None
    arch = standard_name(arch)
    try:
        config = model_config(arch)
    except ValueError:
        return None
    entry = open_clip.get_pretrained_cfg(arch, weights) if isinstance(weights, str) else {}
    quick, _ = decide_gelu(arch, config, None, entry, None, {})
    return 'QuickGELU' if quick else 'GELU'


def _precision(cfg: Config, model: nn.Module | None) -> dict:
    kinds = sorted({str(p.dtype).removeprefix('torch.') for p in model.parameters()}) if model is not None else []
    return dict(numbers=', '.join(kinds) or None, autocast=bool((cfg.get('test_cfg') or {}).get('fp16', False)))


# --- from names to labels -------------------------------------------------------------------------------------


def _decisions(cfg: Config, node: dict, learned: str | None) -> dict:
    """Method, names, templates, background, and the steps from maps to labels."""
    head = dict(node.get('decode_head') or {})
    maskclip = 'type' in node and issubclass(registered(MODELS, node['type']), MaskCLIP)
    steps = [build_step(step) for step in node.get('postprocess') or ()]
    parts = build_refinements(head.pop('refinements', ()), {}) if maskclip else []
    of = {type(step).__name__: step for step in (*parts, *steps)}
    scale = getattr(of.get('Probabilities'), 'scale', None) or head.pop('scale', 100.0 if maskclip else None)
    head.pop('scale', None)

    def value(kind: str, name: str = 'thresh') -> Any:
        return getattr(of[kind], name) if kind in of else None

    told = ('Probabilities', 'Aliases', 'AreaThreshold', 'ProbabilityThreshold', 'PAMR', 'PromptDenoising')
    told += ('KeySmoothing', 'ThresholdBackground', 'NamedBackground')
    backbone = node.get('backbone') or {}
    rest = {k: v for k, v in node.items() if k not in _KNOWN}
    if head:
        rest['decode_head'] = head
    prompt, templates = _prompt(node, maskclip)
    names, background = _names(cfg, node, parts)
    both = (value('ProbabilityThreshold'), value('ThresholdBackground'))
    return dict(
        method=dict(model=_name(node.get('type')), attention=backbone.get('dense_attention'), weights=learned, **rest),
        names=names,
        background=dict(names=background, threshold=both[0] if both[1] is None else both[1]),
        templates=templates,
        prompt=prompt,
        aliases=value('Aliases', 'keep'),
        temperature=scale,
        area_threshold=value('AreaThreshold'),
        denoising=value('PromptDenoising'),
        smoothing=None if 'KeySmoothing' not in of else of['KeySmoothing'].config,
        pamr=None if 'PAMR' not in of else {k: v for k, v in of['PAMR'].config.items() if k != 'type'},
        positions=positions(backbone),
        steps=[_step(step) for step in (*parts, *steps) if type(step).__name__ not in told],
    )


def _prompt(node: dict, maskclip: bool) -> tuple[dict, dict | None]:
    """The text prompt without its sentences, and these; what a config leaves out is what the model takes by itself."""
    kind = registered(MODELS, node['type']) if 'type' in node else None
    default = getattr(kind, 'default_prompt', None)
    if maskclip:
        default = dict(type='vlm_dense.ZeroShotPrompt', templates=MASKCLIP_TEMPLATES)
    prompt = dict(node.get('text_prompt') or default or {})
    own = _default(registered(MODELS, prompt['type']), 'templates') if 'type' in prompt else None
    found = prompt.pop('templates', own)
    texts = None if found is None else _texts(read_templates(found) if isinstance(found, str) else found)
    return {k: _name(v) if k == 'type' else _weights(v) for k, v in prompt.items()}, texts


def _step(step: Step) -> str:
    """A step with its arguments that are no defaults, as 'OriginalSize(at_once=True)'."""
    found = re.fullmatch(r"dict\(type='vlm_dense\.(\w+)'(?:, )?(.*)\)", str(step))
    return f'{found[1]}({found[2]})'


def _names(cfg: Config, node: dict, parts: Sequence) -> tuple[dict | None, list[str] | None]:
    """Names of classes and of the background, as the text tower gets them."""
    data = _names_of_data(cfg)
    given = node.get('class_names') or data
    if given is None:
        return None, None
    classes = as_class_names(given, repeated=True)
    for part in parts:
        classes = part.change_names(classes)
    index = next((part.index for part in parts if isinstance(part, Background)), None)
    if index is None and data is not None and 'background' in data:
        index = list(data).index('background')
    if any(isinstance(part, NamedBackground) for part in parts) and index is None:
        index = 0
    first = [names[0] if names else None for names in classes]
    more = {names[0]: list(names[1:]) for k, names in enumerate(classes) if len(names) > 1 and k != index}
    if index is not None:
        first[index] = None
    told = dict(classes=first, synonyms=more, digest=digest([list(names) for names in classes]))
    return told, None if index is None else list(classes[index])


def _windows(node: dict, tta: bool) -> dict:
    found = {k: v for k, v in (node.get('test_cfg') or {}).items() if k not in ('keep_logits', 'window_batch_size')}
    return found | ({'augmented': True} if tta else {})


# --- JSON -----------------------------------------------------------------------------------------------------


def _name(kind: Any) -> str | None:
    """A type without its scope: 'mmseg.Resize' and 'Resize' are one."""
    return kind.rpartition('.')[2] if isinstance(kind, str) else getattr(kind, '__name__', None)


def _texts(texts: Sequence[str]) -> dict:
    return dict(texts=list(texts), digest=digest(list(texts)))


def _rounded(values: dict) -> dict:
    return {k: [round(float(x), 2) for x in v] if isinstance(v, (list, tuple)) else v for k, v in values.items()}


def plain(value: Any) -> Any:
    """A value as JSON has it, so that what was written and read again is the same."""
    return json.loads(json.dumps(value, default=str))


def digest(value: Any) -> str:
    """First 12 letters of the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:12]
