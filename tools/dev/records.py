"""What is known of the methods: the record ``PAPER`` in each method's file, its configs, and docs/data/results.yml.

tools/dev/pages.py generates all pages, metafiles and lists of methods from it. Nothing is imported: files are parsed.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from vlm_dense.comparison import report
from vlm_dense.engine.configs.names import bases
from vlm_dense.errors import DataError, unknown_name

ROOT = Path(__file__).parents[2]

COMPARISONS = ('compare_shapes', 'benchmark')
"""Names of the figures in docs/data (a CSV and the command as text, or JSON) and of the image in docs/images."""

DATA = {
    'ade20k': 'ADE20K',
    'ade847': 'A-847',
    'camvid': 'CamVid',
    'cityscapes': 'Cityscapes',
    'coco': 'COCO',
    'coco-object': 'COCO-Object',
    'coco-stuff': 'COCO-Stuff',
    'coco-unseen': 'COCO',
    'context459': 'PC-459',
    'context59': 'PASCAL Context',
    'context60': 'PASCAL Context',
    'coop11': 'the 11 sets of CoOp',
    'elevater-voc2007': 'PASCAL VOC 2007',
    'elevater20': "ELEVATER's 20 sets",
    'eurosat': 'EuroSAT',
    'general10': '10 of the sets of CoOp',
    'imagenet': 'ImageNet',
    'nus-wide': 'NUS-WIDE',
    'nus-wide-unseen': 'NUS-WIDE',
    'own-coco': "the user's own",
    'own-folders': "the user's own",
    'own-masks': "the user's own",
    'plant6': 'six sets of plants',
    'shapes': 'Shapes',
    'voc2007': 'PASCAL VOC 2007',
    'voc20': 'PASCAL VOC 2012',
    'voc21': 'PASCAL VOC 2012',
}
"""Last part of a config's name -> its data set."""

TASKS = {
    'mask AP': 'Instance Segmentation',
    'mAP': 'Multi-Label Image Classification',
    'Base Accuracy': 'Base-to-New Generalisation',
    'New Accuracy': 'Base-to-New Generalisation',
    'Harmonic Mean': 'Base-to-New Generalisation',
}
"""Metric -> the task that a metafile names, where it is not :attr:`Config.task`."""


@dataclass(frozen=True)
class Paper:
    """The record ``PAPER`` of a method's file; ``dict(...)`` of constants.

    Attributes:
        name: As the paper writes it.
        title, venue, link: Of the paper.
        idea: One sentence, or two.
        code: Where the official code is; empty if there is none.
        licence: Of that code; 'none' where its repository has no licence file. Such code is not copied.
        trains: What is trained, in a few words; methods of classification only.
        published: Figures of the authors that belong to no config.
        contract: What the method asks of a task beyond its roles, and what it gives; a cell of docs/contract.md.
        variants: Name -> ``trains`` and ``published`` of a variant with configs of its own, for docs/methods.md.
        notes: Markdown: what differs from the release, recipes, files. Links start at ``configs/NAME/``.
    """

    name: str
    title: str
    venue: str
    link: str
    idea: str
    code: str = ''
    licence: str = ''
    trains: str = ''
    published: str = ''
    contract: str = ''
    variants: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: str = ''


@dataclass(frozen=True)
class Result:
    """A figure.

    Attributes:
        data: Data set.
        metric: Of what.
        value: In percent.
        published: It is the authors', not ours.
    """

    data: str
    metric: str
    value: float
    published: bool


@dataclass
class Config:
    """A config of a method.

    Attributes:
        path: Its file.
        results: Figures of this model.
    """

    path: Path
    results: list[Result]

    @property
    def name(self) -> str:
        """Of the model."""
        return self.path.stem

    @property
    def file(self) -> str:
        """Its path in the repository."""
        return f'configs/{self.path.parent.name}/{self.path.name}'

    @cached_property
    def what(self) -> str:
        """First sentence of the comment that a config begins with."""
        lines = []
        for line in self.path.read_text('utf-8').splitlines():
            if not line.startswith('# ') or re.match(r'#\s+python tools/', line):
                break
            lines.append(line[2:].strip())
        first = re.split(r'(?<=[^.]{2}\.) (?=[A-Z`])|; ', ' '.join(lines))[0]
        if not first:
            raise DataError(f'{self.path} does not begin with a comment that says what it is. Write one sentence.')
        return first.rstrip('.:')

    @property
    def trained(self) -> bool:
        """Something is trained, by tools/train.py."""
        return {'train_cfg', 'train_dataloader'} <= _settings(self.path).keys()

    @property
    def task(self) -> str:
        """As metafiles name it."""
        settings = _settings(self.path)
        if 'vlm_dense.CLIPClassifier' in settings:
            return 'Image Classification'
        if 'vlm_dense.RegionAccuracy' in settings:
            return 'Region Classification'
        return 'Object Detection' if any('CocoMetric' in str(name) for name in settings) else 'Semantic Segmentation'

    @property
    def data_set(self) -> str:
        """The data that it is for."""
        return DATA.get(self.name.rpartition('_')[2], self.name.rpartition('_')[2])

    @property
    def data(self) -> str:
        """What it is trained on, or fitted to before a test; 'none'."""
        if 'vlm_dense.CaptionDataset' in _settings(self.path):
            return 'captions'
        fitted = {'support', 'unlabelled'} & _settings(self.path).keys()
        return self.data_set if self.trained or fitted else 'none'

    def told(self, published: bool) -> str:
        """Its figures in one line; empty without."""
        chosen = [result for result in self.results if result.published == published]
        return ', '.join(f'{r.metric} {r.value}' + (f' on {r.data}' if r.data != self.data_set else '') for r in chosen)


@dataclass
class Method:
    """A method: a folder of configs, the baselines among them.

    Attributes:
        folder: ``configs/NAME``.
        file: Where its record stands.
        paper: The record.
        idea: Three sentences: the last paragraph of the file's docstring.
        configs: By name.
        runs: Commands with own figures, as in docs/data/results.yml.
    """

    folder: Path
    file: Path
    paper: Paper
    idea: str
    configs: list[Config]
    runs: list[dict]

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.name


@cache
def read_methods(root: Path = ROOT) -> list[Method]:
    """All methods of the repository at ``root``, sorted by folder.

    Raises:
        DataError: a folder of configs without record, a record that lacks something or has what is no part of it, a
            figure of a model that is not there.
    """
    results = read_results(root)
    models = {path.stem: path for path in sorted((root / 'configs').glob('[!_]*/*.py'))}
    for entry in results['published']:
        if entry['model'] not in models:
            raise DataError(f'docs/data/results.yml: {unknown_name(entry["model"], "configs", models)}')
    files = record_files(root)
    methods = []
    for folder in dict.fromkeys(path.parent for path in models.values()):
        if folder.name not in files:
            raise DataError(
                f'configs/{folder.name} has no method: no file {folder.name}.py or folder {folder.name} in '
                'vlm_dense/methods. Folders of configs are called as the file of their method.'
            )
        runs = [entry for entry in results['own'] if _config_of(entry['command'], root) in models.values()]
        own = {path.stem: [] for path in models.values() if path.parent == folder}
        of_folder = []
        for entry in runs:
            path = _config_of(entry['command'], root)
            if path.parent == folder:
                of_folder.append(entry)
                if '--cfg-options' not in entry['command']:
                    own[path.stem] += entry['figures']
        configs = [Config(models[name], _results(name, results['published'], own[name], root)) for name in own]
        file = files[folder.name]
        methods.append(Method(folder, file, read_paper(file), _idea(file), configs, of_folder))
    return methods


def record_files(root: Path = ROOT) -> dict[str, Path]:
    """Name of a method -> its file, or the ``__init__.py`` of its folder."""
    found = {}
    for path in sorted((root / 'vlm_dense' / 'methods').rglob('*.py')):
        name = path.parent.name if path.name == '__init__.py' else path.stem
        if 'PAPER' in path.read_text('utf-8') and _assigned(path, 'PAPER') is not None:
            found[name] = path
    return found


def read_paper(path: Path) -> Paper:
    """The record in a method's file.

    Raises:
        DataError: no record, entries that it lacks or does not know, or text that is computed.
    """
    node = _assigned(path, 'PAPER')
    try:
        found = _constant(node)
        if not isinstance(found, dict):
            raise ValueError('a dict is expected')
        paper = Paper(**{k: inspect.cleandoc(v) if isinstance(v, str) else v for k, v in found.items()})
    except (TypeError, ValueError) as error:
        raise DataError(
            f'{path}: PAPER cannot be read ({error}). Write PAPER = dict(...) of constants, with the entries '
            f'{", ".join(entry.name for entry in fields(Paper))}; name, title, venue, link and idea are needed.'
        ) from error
    if paper.code and not paper.licence:
        raise DataError(
            f"{path}: PAPER has code and no licence. Write the licence, or 'none' if there is no file of it."
        )
    return paper


def _assigned(path: Path, name: str) -> ast.expr | None:
    for node in ast.parse(path.read_text('utf-8')).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], 'id', None) == name:
            return node.value
    return None


def _constant(node: ast.expr | None) -> Any:
    """Value of a constant expression, in which ``dict(...)`` may stand."""
    if isinstance(node, ast.Call) and getattr(node.func, 'id', None) == 'dict' and not node.args:
        return {entry.arg: _constant(entry.value) for entry in node.keywords}
    if isinstance(node, ast.Dict):
        return {_constant(k): _constant(v) for k, v in zip(node.keys, node.values, strict=True)}
    return ast.literal_eval(node)


def _idea(path: Path) -> str:
    return ' '.join(ast.get_docstring(ast.parse(path.read_text('utf-8'))).split('\n\n')[-1].split())


@cache
def _settings(path: Path) -> dict[str, None]:
    """Names that a config and its bases assign, keys of their dicts, and their types."""
    tree, found = ast.parse(path.read_text('utf-8')), {}
    for base in bases(tree):
        if '::' not in base:
            found |= _settings((path.parent / base).resolve())
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            found |= dict.fromkeys(getattr(target, 'id', '') for target in node.targets)
        elif isinstance(node, ast.keyword) and node.arg:
            found[node.arg] = None
            if node.arg == 'type' and isinstance(node.value, ast.Constant):
                found[node.value.value] = None
    return found


# --- figures --------------------------------------------------------------------------------------------------


@cache
def read_results(root: Path = ROOT) -> dict[str, list[dict]]:
    """docs/data/results.yml: ``published``, figures of models; ``own``, commands with the figures that they print.

    Raises:
        DataError: an entry with other keys.
    """
    path = root / 'docs/data/results.yml'
    found = yaml.safe_load(path.read_text('utf-8'))
    needed = dict(
        published={'model', 'data', 'metric', 'value'}, own={'name', 'command', 'pages', 'minutes', 'figures'}
    )
    if found.keys() != needed.keys():
        raise DataError(f'{path} has the parts {", ".join(found)}; published and own are expected.')
    for part, keys in needed.items():
        for entry in found[part]:
            if entry.keys() - {'seeds'} != keys:
                raise DataError(f'{path}, {part}: {entry} has other keys than {", ".join(sorted(keys))}.')
    return found


def _results(name: str, published: list[dict], own: list[dict], root: Path) -> list[Result]:
    """Figures of a model: the authors', then ours, of a command or else of a comparison."""
    found = [Result(e['data'], e['metric'], e['value'], True) for e in published if e['model'] == name]
    data = DATA.get(name.rpartition('_')[2], name.rpartition('_')[2])
    ours = [Result(data, figure['label'], float(figure['value'].partition(' ')[0]), False) for figure in own]
    return found + (ours or _compared(name, root))


@cache
def comparisons(root: Path = ROOT) -> list[tuple[str, str, list[dict]]]:
    """Image, command and rows of each comparison that docs/data keeps."""
    data, found = root / 'docs/data', []
    plain, several = (data / f'{name}{ending}' for name, ending in zip(COMPARISONS, ('.csv', '.json'), strict=True))
    if plain.is_file():
        found.append((plain.stem, plain.with_suffix('.txt').read_text('utf-8').strip(), report.read_csv(plain)))
    if several.is_file():
        for part in json.loads(several.read_text('utf-8')):
            found.append(
                (several.stem, part['command'], [dict(zip(part['fields'], row, strict=True)) for row in part['rows']])
            )
    return found


def _compared(name: str, root: Path) -> list[Result]:
    """Figures of the first comparison that has the config ``name``, with the greatest number of shots."""
    found = sorted(comparisons(root), key=lambda each: each[2][0]['protocol'] != 'few-shot')  # else their order stays
    for _, _, rows in found:
        if own := [row for row in rows if f'{row["method"]}_{_config_set(row["dataset"])}' == name]:
            return [
                Result(DATA.get(own[0]['dataset'], own[0]['dataset']), metric, value, False)
                for metric, value in summary(own).items()
            ]
    return []


def _config_set(dataset: str) -> str:
    """Drawn sets of a comparison are variants of the config for Shapes."""
    return dataset if dataset in DATA else 'shapes'


def summary(rows: list[dict]) -> dict[str, float]:
    """Metric -> mean over seeds, of rows of one method: its first set and protocol, the greatest number of shots."""
    rows = [row for row in rows if all(row[key] == rows[0][key] for key in ('dataset', 'protocol'))]
    most = max(row['shots'] for row in rows)
    rows = [row for row in rows if row['shots'] == most]
    found = {}
    for row in rows + report.harmonic_rows(rows):
        told = [row['test'] if row['test'] != 'test' else '', report.told_shots(most) if most else '']
        told = ', '.join(filter(None, told))
        found.setdefault(f'{row["metric"]} ({told})' if told else row['metric'], []).append(row['value'])
    return {metric: round(sum(values) / len(values), 1) for metric, values in found.items()}


def _config_of(command: str, root: Path) -> Path | None:
    """The config that a command names; the short names of the README stand for the same model."""
    found = re.search(r'configs/\S+\.py', command)
    if found is None:
        return None
    path = root / found[0]
    return next(path.parent.glob(f'*/{path.name}'), path)
