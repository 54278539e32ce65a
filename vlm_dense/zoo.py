"""Models by name, from the metafiles beside the configs. Heavy libraries are imported only when a model is built."""

from __future__ import annotations

import ast
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape
from pathlib import Path

from vlm_dense.engine.configs.names import ROOT, bases
from vlm_dense.engine.configs.tower_names import TOWERS

MASKCLIP = {
    'maskclip_tiny-vit': ('tiny-vit', 'bundled'),
    'maskclip_tiny-rn': ('tiny-rn', 'bundled'),
    'maskclip_vit-b16': ('ViT-B-16', 'openai'),
    'maskclip_rn50': ('RN50', 'openai'),
    'maskclip_rn50x16': ('RN50x16', 'openai'),
}
"""Model names -> (arch, pretrained)."""

CLASSIFIERS = {
    'clip_tiny-vit': ('tiny-vit', 'bundled'),
    'clip_tiny-rn': ('tiny-rn', 'bundled'),
    'clip_vit-b16': ('ViT-B-16', 'openai'),
    'clip_vit-b32': ('ViT-B-32', 'openai'),
    'clip_vit-l14': ('ViT-L-14', 'openai'),
    'clip_rn50': ('RN50', 'openai'),
}
"""Names of zero-shot classifiers -> (arch, pretrained)."""

DEFAULT_MODEL = 'maskclip_tiny-vit'
DEFAULT_CLASSIFIER = 'clip_tiny-vit'

METHODS = tuple(
    sorted(
        path.parent.name
        for path in (ROOT / 'configs').glob('*/*_tiny-vit_shapes.py')
        if path.name == f'{path.parent.name}_tiny-vit_shapes.py'
    )
)
"""MaskCLIP and its successors: the methods with a config ``<method>_tiny-vit_shapes.py``."""

_TASKS = dict(mmseg='Semantic Segmentation', mmdet='Object Detection', mmengine='Image Classification')
"""Default scope of a config -> its task."""


@dataclass(frozen=True)
class Card:
    """Entry of a model in a metafile.

    Attributes:
        name: Of the model and of its config.
        config: The file.
        method: Name of the method.
        data: What it is trained on; 'none' if nothing is trained.
        results: Entries of the metafile: ``Task``, ``Dataset``, ``Metrics`` (name -> figure) and ``Published``, whether
            the figures are the authors' and not of this project.
        weights: Path or URL of a checkpoint, ``bundled://NAME`` of one in the package; ``None`` if there is none.
    """

    name: str
    config: Path
    method: str
    data: str
    results: Sequence[dict] = field(default=(), hash=False)
    weights: str | None = None

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        rows = [('model', self.name), ('task', self.task), ('method', self.method), ('trained on', self.data)]
        rows += [('weights', self.weights)] if self.weights else []
        for result in self.results:
            kind = 'published' if result.get('Published') else 'own'
            metrics = ', '.join(f'{name} {value}' for name, value in (result.get('Metrics') or {}).items())
            rows.append((kind, f'{metrics} ({result["Dataset"]})'))
        cells = ''.join(f'<tr><th>{escape(key)}</th><td>{escape(str(value))}</td></tr>' for key, value in rows)
        return f'<table>{cells}</table>'

    @property
    def task(self) -> str:
        """Task of the results, else of the libraries of the config."""
        tasks = dict.fromkeys(result['Task'] for result in self.results)
        return ', '.join(tasks) or _TASKS[_scope(self.config)]


def cards() -> list[Card]:
    """All models of ``model-index.yml``, in the order of their names."""
    index = _yaml(ROOT / 'model-index.yml')
    found = [
        Card(
            name=model['Name'],
            config=ROOT / model['Config'],
            method=model['In Collection'],
            data=str((model.get('Metadata') or {}).get('Training Data', 'none')),
            results=tuple(model.get('Results') or ()),
            weights=model.get('Weights'),
        )
        for path in index['Import']
        for model in _yaml(ROOT / path)['Models']
    ]
    return sorted(found, key=lambda card: card.name)


def _yaml(path: Path) -> dict:
    import yaml

    with path.open(encoding='utf-8') as file:
        return yaml.load(file, getattr(yaml, 'CSafeLoader', yaml.SafeLoader))


@lru_cache
def _scope(path: Path) -> str:
    """Default scope of a config, read from its text and that of its bases; 'mmengine' if none names one."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == 'default_scope':
            return ast.literal_eval(node.value)
    found = (_scope((path.parent / base).resolve()) for base in bases(tree) if '::' not in base)
    return next((scope for scope in found if scope != 'mmengine'), 'mmengine')


def list_models(pattern: str = '', task: str | None = None) -> list[str]:
    """Names of the models of vlm_dense, sorted; each is the name of a config.

    Args:
        pattern: Part of the name; ``*``, ``?`` and ``[...]`` as in file names.
        task: Part of the task, as 'segmentation'; letters may be large or small.

    Examples:
        >>> list_models('denseclip_*_ade20k')[-2:]
        ['denseclip_rn101_ade20k', 'denseclip_vit-b16_ade20k']
        >>> list_models('denseclip_mask-rcnn', task='detection')
        ['denseclip_mask-rcnn_r101_coco', 'denseclip_mask-rcnn_r50_coco', 'denseclip_mask-rcnn_shapes']
    """
    return [card.name for card in find_cards(pattern, task)]


def find_cards(pattern: str = '', task: str | None = None) -> list[Card]:
    """The cards of the models that :func:`list_models` lists."""
    matching = [card for card in cards() if fnmatch.fnmatchcase(card.name, f'*{pattern}*')]
    return [card for card in matching if task is None or task.lower() in card.task.lower()]


def free_names() -> list[str]:
    """Names of models that segment without training and take any class names; they are no configs."""
    return list(dict.fromkeys((*MASKCLIP, *(f'{method}_{tower}' for method in METHODS for tower in TOWERS))))
