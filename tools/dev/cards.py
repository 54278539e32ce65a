"""Pages and metafiles of the configs, and the table of docs/contract.md, generated from the records of the methods."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from pathlib import Path

import yaml
from records import ROOT, TASKS, Config, Method

from vlm_dense.contract import (
    DenseAttention,
    Head,
    ImagePrompt,
    LearnedContext,
    Loss,
    StreamAdaptation,
    TestTimeAdaptation,
    TextPrompt,
)
from vlm_dense.engine.configs.names import bundled_checkpoint
from vlm_dense.registry import MODELS

MADE = '<!-- made by tools/dev/pages.py of {}; change that, not this page -->'

ROLES = {
    'C': LearnedContext,
    'T': TextPrompt,
    'I': ImagePrompt,
    'H': Head,
    'L': Loss,
    'D': DenseAttention,
    'S': StreamAdaptation,
    'A': TestTimeAdaptation,
}
"""Letter -> role. C is a T and S is an A: the first that fits is told of these."""

START = '<!-- the table is made by tools/dev/pages.py of the registry and of PAPER in the methods -->'
END = '<!-- end of the table -->'


def head(method: Method) -> str:
    """Title, paper and code."""
    paper = method.paper
    told = f'> [{paper.title}]({paper.link}), {paper.venue}.'
    if paper.code:
        licence = 'without a licence' if paper.licence == 'none' else paper.licence
        told += f' Official code: [{paper.code.partition("github.com/")[2] or paper.code}]({paper.code}), {licence}.'
    file = method.file.relative_to(ROOT) if ROOT in method.file.parents else method.file
    return f'# {paper.name}\n\n{MADE.format(f"{file} and the configs")}\n\n{told}'


def body(method: Method) -> str:
    """What a page says below the idea."""
    commands = '\n'.join(
        f'python tools/{"train" if config.trained else "test"}.py {config.file}'
        for config in method.configs
        if config.data_set == 'Shapes'
    )
    lines = ['| config | what it is | trained on | published | own |', '|---|---|---|---|---|']
    lines += [
        f'| [{c.path.name}]({c.path.name}) | {c.what} | {c.data} | {c.told(True) or "-"} | {c.told(False) or "-"} |'
        for c in method.configs
    ]
    parts = [f'```bash\n{commands}\n```', '\n'.join(lines), method.paper.notes]
    if method.paper.published:
        parts.append(f'Published by the authors: {method.paper.published}.')
    if method.paper.published or any(config.told(True) for config in method.configs):
        parts.append("Published figures are the authors', with their weights and data; they were not run again here.")
    return '\n\n'.join(filter(None, parts))


def readme(method: Method) -> str:
    """``configs/NAME/README.md``."""
    ideas = (textwrap.fill(idea, 118, break_on_hyphens=False) for idea in (method.paper.idea, method.idea))
    return '\n\n'.join((head(method), *ideas, body(method))) + '\n'


def metafile(method: Method) -> str:
    """``configs/NAME/metafile.yml``, as openmim reads it."""
    paper, file = method.paper, method.file.relative_to(ROOT).as_posix()
    collection = dict(
        Name=paper.name,
        Paper=dict(URL=paper.link, Title=paper.title),
        Idea=method.idea,
        README=f'configs/{method.name}/README.md',
        Code=dict(URL=file),
    )
    models = [_model(config, paper.name) for config in method.configs]
    text = yaml.safe_dump(dict(Collections=[collection], Models=models), sort_keys=False, width=118, allow_unicode=True)
    return f'# Made by tools/dev/pages.py of {file}, the configs and docs/data/results.yml; change those.\n{text}'


def _model(config: Config, collection: str) -> dict:
    found = {
        'Name': config.name,
        'In Collection': collection,
        'Config': config.file,
        'Metadata': {'Training Data': config.data},
    }
    if bundled_checkpoint(config.path):
        found['Weights'] = bundled_checkpoint(config.path)
    if config.results:
        found['Results'] = [
            dict(
                Task=TASKS.get(r.metric, config.task),
                Dataset=r.data,
                Metrics={r.metric: r.value},
                Published=r.published,
            )
            for r in config.results
        ]
    return found


def index(methods: list[Method]) -> str:
    """``model-index.yml``."""
    lines = [f'  - configs/{method.name}/metafile.yml' for method in methods]
    return '# Made by tools/dev/pages.py.\nImport:\n' + '\n'.join(lines) + '\n'


# --- the contract ---------------------------------------------------------------------------------------------


def parts_of(method: Method) -> dict[str, type]:
    """Names and classes of the registered parts in a method's file or folder."""
    MODELS.import_from_location()
    module = '.'.join(method.file.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__')
    importlib.import_module(module)
    found = sorted(MODELS.module_dict.items())
    return {name: kind for name, kind in found if f'{kind.__module__}.'.startswith(f'{module}.')}


def roles_of(kind: type) -> str:
    """Letters of the roles of a class, see docs/contract.md, in brackets; empty for other parts."""
    found = [letter for letter, role in ROLES.items() if issubclass(kind, role)]
    found = [x for x in found if (x, 'C' in found) != ('T', True) and (x, 'S' in found) != ('A', True)]
    if hasattr(kind, 'prepare'):
        found.append('P')
    if issubclass(kind, TextPrompt) and kind.losses is not TextPrompt.losses:
        found.append('l')
    return f' ({" ".join(found)})' if found else ''


def asks_of(kind: type) -> list[str]:
    """What a class asks of its task beyond its roles, from its attributes."""
    found = []
    for role, attribute in ((Head, 'features'), (ImagePrompt, 'plain')):
        asked = inspect.getattr_static(kind, attribute, ())
        if issubclass(kind, role) and isinstance(asked, tuple) and asked != inspect.getattr_static(role, attribute):
            found.append(f'{attribute} ' + ', '.join(f'`{name}`' for name in asked))
    flags = ('image_conditioned', 'reads_text', 'reads_classes', 'transductive')
    found += [f'`{name}`' for name in flags if inspect.getattr_static(kind, name, False) is True]
    if inspect.getattr_static(kind, 'text', True) is False:
        found.append('no text')
    return found + ['`finish`'] * hasattr(kind, 'finish')


def contract_table(methods: list[Method]) -> str:
    """The rows of docs/contract.md."""
    lines = ['| method | parts | asks of the task, gives |', '|---|---|---|']
    for method in sorted(methods, key=lambda each: (each.file.parent, each.name)):
        parts = parts_of(method)
        if not parts:
            continue
        told = ', '.join(f'`{name}`{roles_of(kind)}' for name, kind in parts.items())
        asks = dict.fromkeys(ask for kind in parts.values() for ask in asks_of(kind))
        asks = '; '.join(filter(None, (*asks, method.paper.contract)))
        lines.append(f'| [{method.name}](../configs/{method.name}/README.md) | {told} | {asks} |')
    return '\n'.join(lines)


def contract(text: str, methods: list[Method]) -> str:
    """docs/contract.md with its table made again."""
    before, _, rest = text.partition(START)
    return f'{before}{START}\n\n{contract_table(methods)}\n\n{END}{rest.partition(END)[2]}'


def made(methods: list[Method], root: Path = ROOT) -> dict[Path, str]:
    """Files generated from the records -> their text."""
    found = {root / 'model-index.yml': index(methods)}
    for method in methods:
        found[method.folder / 'README.md'] = readme(method)
        found[method.folder / 'metafile.yml'] = metafile(method)
    page = root / 'docs/contract.md'
    found[page] = contract(page.read_text('utf-8'), methods)
    return found
