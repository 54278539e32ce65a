"""Pages of the methods and of the model zoo, from the records of the methods and from figures."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import cards
import records
from records import Config, Method

from site_pages.reference import Reference
from vlm_dense.comparison import report

TASKS = ('Classification', 'Segmentation', 'Detection')

NO_WEIGHTS = """There are no trained weights to download, and no logs but those of
[the bundled models](projects/tiny_clip/README.md).
**Published** figures are the authors', with their models and data; they were not run again here. **Own** figures are
runs of this code on one CPU thread, most of them on drawn scenes with the small bundled models; the page of each method
has the commands that print them. `vlm-dense models` prints the same figures."""


@cache
def names_of(path: Path) -> list[str]:
    """Strings in a config and in the bases that belong to its method: types of parts are among them."""
    return list(_strings(path, path.parent.name))


def task_of(config: Config) -> str:
    """One of :data:`TASKS`."""
    return next(task for task in TASKS if task in config.task)


# --- a method -------------------------------------------------------------------------------------------------


def method_page(method: Method, reference: Reference, docs: Path) -> str:
    """The page of a method, with links as in ``configs/NAME/README.md``."""
    body = re.sub(r'^## ', '### ', cards.body(method), flags=re.M)
    parts = [cards.head(method), method.idea, '## Roles', _parts(method, reference), '## Configs', body]
    parts += _figures(method, docs)
    parts += ['## Config files', *(_source(config) for config in method.configs)]
    return '\n\n'.join(parts) + '\n'


def _parts(method: Method, reference: Reference) -> str:
    """Table of the parts that the configs of a method name, with their roles in the contract."""
    lines = ['| part | roles | what it is | configs |', '|---|---|---|---|']
    every = [names_of(config.path) for config in method.configs]
    names = dict.fromkeys(name for names in every for name in names if name.startswith('vlm_dense.'))
    for name in names:
        kind = reference.registered.get(name.removeprefix('vlm_dense.'))
        if kind is None or not kind.__module__.startswith('vlm_dense.methods.'):
            continue
        number = sum(name in names for names in every)
        configs = 'all' if number == len(method.configs) else f'{number} of {len(method.configs)}'
        first = inspect.getdoc(kind).split('\n\n')[0].replace('\n', ' ')
        what = reference.plain(first).replace('|', '\\|')
        path = f'{kind.__module__}.{kind.__qualname__}'
        lines.append(f'| [`{name}`][{path}] | {reference.roles(kind)} | {what} | {configs} |')
    if len(lines) == 2:
        return 'These configs use parts of the tasks only, no part of a method.'
    return '\n'.join(lines) + '\n\nRoles are those of [the contract](../../docs/contract.md).'


def _figures(method: Method, docs: Path) -> list[str]:
    """Own figures with the commands that print them."""
    parts = []
    for entry in method.runs:
        found = ', '.join(f'{figure["label"]} **{figure["value"]}**' for figure in entry['figures'])
        command = re.sub(r'\{\w+\}', 'DIR', entry['command'])
        parts.append(f'```bash\n{command}\n```\n\n{found} ({entry["minutes"]:g} minutes)')
    stems = {config.name for config in method.configs}
    for _, command, rows in records.comparisons(docs.parent):
        own = [row for row in rows if f'{row["method"]}_shapes' in stems]
        if own:
            tables = '\n\n'.join(line.replace('## ', '#### ') for line in report.tables(own)[1:-2])
            parts.append(f'{tables}\n\n??? note "The command"\n\n    ```bash\n    {command}\n    ```')
    if not parts:
        return []
    intro = 'Runs of this code with the bundled models, on one CPU thread; in percent, mean and deviation over seeds.'
    return ['## Own figures', intro, *parts]


def _source(config: Config) -> str:
    """The text of a config, folded, below a heading with its name."""
    code = config.path.read_text('utf-8').strip().replace('\n', '\n    ')
    stem, name = config.name, config.file
    return f'### {stem} {{ #{stem} }}\n\n??? abstract "{name}"\n\n    ```python\n    {code}\n    ```'


def _strings(path: Path, method: str = '') -> Iterable[str]:
    """String constants of a config and of its bases: those in a folder ``method``, and those named after it."""
    strings, bases = _parse(path)
    yield from strings
    for base in bases:
        file = (path.parent / base).resolve()
        if file.is_file() and (file.parent.name == method or file.name.startswith(method)):
            yield from _strings(file, method)


@cache
def _parse(path: Path) -> tuple[list[str], list[str]]:
    """String constants of one config, and its ``_base_``."""
    tree, bases = ast.parse(path.read_text('utf-8')), []
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == '_base_':
            value = ast.literal_eval(node.value)
            bases = [value] if isinstance(value, str) else value
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return [node.value for node in nodes if isinstance(node.value, str)], bases


# --- the zoo --------------------------------------------------------------------------------------------------


def zoo_page(methods: list[Method], task: str) -> str:
    """Table of all configs of a task, with links from the root of the repository."""
    lines = [f'# {task}: configs and figures', NO_WEIGHTS, '']
    lines += ['| config | method | trained on | published | own |', '|---|---|---|---|---|']
    for method in methods:
        for config in method.configs:
            if task_of(config) == task:
                link = f'[{method.paper.name}](configs/{method.name}/README.md)'
                entries = (f'[{config.name}]({config.file})', link, config.data, config.told(True), config.told(False))
                lines.append(f'| {" | ".join(entries)} |')
    return '\n'.join(lines) + '\n'


def index_page(methods: list[Method]) -> str:
    """List of all methods by what they do, with links from the root of the repository."""
    lines = ['# Methods', 'Each page has the idea, the roles, the configs and the figures of one method.', '']
    for task in TASKS:
        chosen = [method for method in methods if _main_task(method) == task]
        lines += [f'## {task}', '', '| method | what it does |', '|---|---|']
        lines += [f'| [{m.paper.name}](configs/{m.name}/README.md) | {m.paper.idea} |' for m in chosen]
        lines.append('')
    return '\n'.join(lines) + '\n'


def _main_task(method: Method) -> str:
    return max(TASKS, key=lambda task: sum(task_of(config) == task for config in method.configs))
