"""Published template lists, sentences with ``{}`` for the class name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from open_clip import OPENAI_IMAGENET_TEMPLATES

from vlm_dense.errors import ConfigError, unknown_name

IMAGENET_TEMPLATES = tuple(template('{}') for template in OPENAI_IMAGENET_TEMPLATES)
"""CLIP's 80 for ImageNet, in their order."""

MASKCLIP_TEMPLATES = (
    *IMAGENET_TEMPLATES,
    'there is a {} in the scene.',
    'there is the {} in the scene.',
    'this is a {} in the scene.',
    'this is the {} in the scene.',
    'this is one {} in the scene.',
)
"""MaskCLIP's 85."""

PROMPTSRC_TEMPLATES = ('a photo of a {}.', *(t for t in IMAGENET_TEMPLATES[:60] if t != 'a photo of a {}.'))
"""PromptSRC's 60: the plain one, and the others among CLIP's first 60."""

FOLDER = Path(__file__).parents[1] / 'data' / 'templates'


def read_templates(name: str) -> tuple[str, ...]:
    """A list of templates by its name.

    Args:
        name: 'imagenet80', 'imagenet7', 'maskclip85', 'promptsrc', or a data set, as 'eurosat', for the sentence that
            CoOp uses on it; the lists are files of one sentence a line in ``vlm_dense/data/templates``. Or the path of
            such a file. Lines that start with ``#`` are left out.

    Raises:
        ConfigError: no such list; the nearest names are given.
    """
    known = dict(imagenet80=IMAGENET_TEMPLATES, maskclip85=MASKCLIP_TEMPLATES, promptsrc=PROMPTSRC_TEMPLATES)
    if name in known:
        return known[name]
    path = Path(name) if Path(name).suffix else FOLDER / f'{name}.txt'
    if not path.is_file():
        raise ConfigError(
            unknown_name(name, 'template lists of vlm_dense', [*known, *(p.stem for p in FOLDER.glob('*.txt'))])
        )
    lines = [line.strip() for line in path.read_text(encoding='utf-8').splitlines()]
    return tuple(line for line in lines if line and not line.startswith('#'))


def as_templates(templates: str | Sequence[str], owner: str) -> tuple[str, ...]:
    """Templates that are given as a list, or by the name of one.

    Args:
        templates: Sentences, each with one ``{}`` for the class name, or what :func:`read_templates` takes.
        owner: Name of the component that they are for, for the message.

    Raises:
        ConfigError: no such list, an empty list, or a sentence without ``{}`` or with other braces.
    """
    found = read_templates(templates) if isinstance(templates, str) else tuple(templates)
    wrong = [t for t in found if not isinstance(t, str) or t.count('{}') != 1 or t.count('{') + t.count('}') != 2]
    if wrong or not found:
        raise ConfigError(f'{owner}: templates need one {{}} each for the class name, found {wrong or found!r}.')
    return found
