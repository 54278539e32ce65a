"""Pages of the methods and of the model zoo, from metafiles, pages of the configs and figures."""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

import figures
import yaml

from site_pages.reference import Reference
from vlm_dense.comparison import report

TASKS = ('Classification', 'Segmentation', 'Detection')

NO_WEIGHTS = """There are no trained weights to download, and no logs but those of
[the bundled models](projects/tiny_clip/README.md).
**Published** figures are the authors', with their models and data; they were not run again here. **Own** figures are
runs of this code on one CPU thread, most of them on drawn scenes with the small bundled models; the page of each method
has the commands that print them."""


@dataclass
class Config:
    """A config of the zoo.

    Attributes:
        path: Its file.
        data: What it is trained on.
        published: Figures of the authors, as text; empty without.
        own: Figures of this project, as text; empty without.
    """

    path: Path
    data: str
    published: str = ''
    own: str = ''

    @cached_property
    def names(self) -> list[str]:
        """Strings in the file and in the bases that belong to the method: types of parts are among them."""
        return list(_strings(self.path, self.path.parent.name))

    @cached_property
    def task(self) -> str:
        """One of :data:`TASKS`."""
        names = set(_strings(self.path))
        if 'vlm_dense.CLIPClassifier' in names:
            return 'Classification'
        return 'Detection' if any(name.endswith('CocoMetric') for name in names) else 'Segmentation'


@dataclass
class Method:
    """A folder of configs: a method, or the baselines.

    Attributes:
        folder: ``configs/NAME``.
        title: Its name in papers.
        summary: One sentence.
        idea: Three sentences.
        configs: Of the metafile, in its order.
        runs: Commands with own figures.
    """

    folder: Path
    title: str
    summary: str
    idea: str
    configs: list[Config]
    runs: list[figures.Entry] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name


def read_methods(root: Path) -> list[Method]:
    """All methods of the repository at ``root``, sorted by folder."""
    entries = figures.read_entries(root / 'docs/data/figures.json')
    return [
        _read(folder, entries) for folder in sorted((root / 'configs').glob('*')) if (folder / 'metafile.yml').is_file()
    ]


def _read(folder: Path, entries: list[figures.Entry]) -> Method:
    meta = yaml.safe_load((folder / 'metafile.yml').read_text('utf-8'))
    collection = meta['Collections'][0]
    root = folder.parents[1]
    configs, runs = [], []
    for model in meta['Models']:
        config = Config(root / model['Config'], model.get('Metadata', {}).get('Training Data', ''))
        config.published = '; '.join(
            f'{result["Dataset"]}: {metric} {value}'
            for result in model.get('Results', [])
            if result.get('Published')
            for metric, value in result['Metrics'].items()
        )
        own = [entry for entry in entries if _config_of(entry, root) == config.path]
        plain = [entry for entry in own if '--cfg-options' not in entry.command]
        config.own = '; '.join(f'{figure.label} {figure.value}' for entry in plain for figure in entry.figures[:1])
        config.own = config.own or _few_shot(config.path.stem, root / 'docs')
        configs.append(config)
        runs += own
    summary = re.split(r'(?<=\.) (?=[A-Z])', _readme(folder)[1].split('\n\n')[0].replace('\n', ' '))[0]
    return Method(folder, collection['Name'], summary, collection['Idea'], configs, runs)


def _few_shot(name: str, docs: Path) -> str:
    """Few-shot accuracy of the config ``name`` with the most images, if a comparison has it."""
    rows = [row for _, every in _comparisons(docs) for row in every if row['protocol'] == 'few-shot']
    rows = [row for row in rows if f'{row["method"]}_shapes' == name]
    most = max((row['shots'] for row in rows), default=0)
    values = [row['value'] for row in rows if row['shots'] == most]
    return f'{rows[0]["metric"]} {report.mean_of(values)} ({report.told_shots(most)})' if values else ''


def _config_of(entry: figures.Entry, root: Path) -> Path | None:
    """The config of a metafile that a command names; the short names of the README stand for the same model."""
    found = re.search(r'configs/\S+\.py', entry.command)
    if found is None:
        return None
    path = root / found[0]
    return next(path.parent.glob(f'*/{path.name}'), path)


# --- a method -------------------------------------------------------------------------------------------------


def method_page(method: Method, reference: Reference, docs: Path) -> str:
    """The page of a method, with links as in ``configs/NAME/README.md``."""
    head, body = _readme(method.folder)
    parts = [head, method.idea, '## Roles', _parts(method, reference), '## Configs', body]
    parts += _figures(method, docs)
    parts += ['## Config files', *(_source(config) for config in method.configs)]
    return '\n\n'.join(parts) + '\n'


def _readme(folder: Path) -> tuple[str, str]:
    """Title and paper, and what follows them."""
    text = (folder / 'README.md').read_text('utf-8').strip()
    blocks = text.split('\n\n')
    split = next((i for i, block in enumerate(blocks) if block.startswith('>')), 0) + 1
    return '\n\n'.join(blocks[:split]), '\n\n'.join(blocks[split:]).replace('\n## ', '\n### ')


def _parts(method: Method, reference: Reference) -> str:
    """Table of the parts that the configs of a method name, with their roles in the contract."""
    lines = ['| part | roles | what it is | configs |', '|---|---|---|---|']
    names = dict.fromkeys(name for config in method.configs for name in config.names if name.startswith('vlm_dense.'))
    for name in names:
        kind = reference.registered.get(name.removeprefix('vlm_dense.'))
        if kind is None or not kind.__module__.startswith('vlm_dense.methods.'):
            continue
        number = sum(name in config.names for config in method.configs)
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
        found = ', '.join(f'{figure.label} **{figure.value}**' for figure in entry.figures)
        command = re.sub(r'\{\w+\}', 'DIR', entry.command)
        parts.append(f'```bash\n{command}\n```\n\n{found} ({entry.minutes:g} minutes)')
    stems = {config.path.stem for config in method.configs}
    for command, rows in _comparisons(docs):
        own = [row for row in rows if f'{row["method"]}_shapes' in stems]
        if own:
            tables = '\n\n'.join(line.replace('## ', '#### ') for line in report.tables(own)[1:-2])
            parts.append(f'{tables}\n\n??? note "The command"\n\n    ```bash\n    {command}\n    ```')
    if not parts:
        return []
    intro = 'Runs of this code with the bundled models, on one CPU thread; in percent, mean and deviation over seeds.'
    return ['## Own figures', intro, *parts]


@cache
def _comparisons(docs: Path) -> list[tuple[str, list[dict]]]:
    """Command and rows of each comparison that is kept in the documentation."""
    data = docs / 'data'
    found = [((data / 'compare_shapes.txt').read_text('utf-8').strip(), report.read_csv(data / 'compare_shapes.csv'))]
    for part in json.loads((data / 'benchmark.json').read_text('utf-8')):
        found.append((part['command'], [dict(zip(part['fields'], row, strict=True)) for row in part['rows']]))
    return found


def _source(config: Config) -> str:
    """The text of a config, folded, below a heading with its name."""
    code = config.path.read_text('utf-8').strip().replace('\n', '\n    ')
    stem, name = config.path.stem, f'configs/{config.path.parent.name}/{config.path.name}'
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
            if config.task == task:
                folder = f'configs/{method.name}'
                links = f'[{config.path.stem}]({folder}/{config.path.name}) | [{method.title}]({folder}/README.md)'
                lines.append(f'| {links} | {config.data} | {config.published} | {config.own} |')
    return '\n'.join(lines) + '\n'


def index_page(methods: list[Method]) -> str:
    """List of all methods by what they do, with links from the root of the repository."""
    lines = ['# Methods', 'Each page has the idea, the roles, the configs and the figures of one method.', '']
    for task in TASKS:
        chosen = [method for method in methods if _main_task(method) == task]
        lines += [f'## {task}', '', '| method | what it does |', '|---|---|']
        lines += [f'| [{m.title}](configs/{m.name}/README.md) | {m.summary} |' for m in chosen]
        lines.append('')
    return '\n'.join(lines) + '\n'


def _main_task(method: Method) -> str:
    return max(TASKS, key=lambda task: sum(config.task == task for config in method.configs))
