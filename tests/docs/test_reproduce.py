"""docs/reproduce.md: every method has a row, its commands name configs that exist, its figures are published."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from vlm_dense import cli
from vlm_dense.classification.datasets import SETS, is_multi_label
from vlm_dense.engine.configs.names import CONFIGS, list_configs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / 'docs' / 'reproduce.md').read_text(encoding='utf-8')
STEMS = {path.stem for path in list_configs(CONFIGS)}
LISTS = {name: ' '.join(sets.split()) for name, sets in re.findall(r'`([A-Z]+)`[^`]*`([^`]+)`', PAGE)}
COMPARISONS = re.findall(r'`(--methods .*?)`', PAGE)


def published() -> dict[str, dict[str, float]]:
    """Config -> the authors' figures, of the metafiles."""
    found: dict[str, dict[str, float]] = {}
    for path in CONFIGS.glob('*/metafile.yml'):
        for model in yaml.safe_load(path.read_text(encoding='utf-8'))['Models']:
            for result in model.get('Results', ()):
                if result.get('Published'):
                    found.setdefault(model['Name'], {}).update(result['Metrics'])
    return found


@pytest.mark.parametrize('words', COMPARISONS)
def test_a_row_of_classification_is_a_comparison_of_configs_that_exist(words):
    for name, sets in LISTS.items():
        words = words.replace(name, sets)
    args = cli.program('compare').parser().parse_args(shlex.split(words))
    for method in args.methods:
        for dataset in args.datasets:
            like_imagenet = dataset in SETS and not is_multi_label(dataset) and f'{method}_imagenet' in STEMS
            assert like_imagenet or f'{method}_{dataset}' in STEMS


def test_the_sets_are_eleven_and_twelve():
    assert [len(LISTS[name].split()) for name in ('ELEVEN', 'TWELVE')] == [11, 12]
    assert set(' '.join(LISTS.values()).split()) < set(SETS)


def test_every_method_is_there():
    table = (ROOT / 'docs' / 'methods.md').read_text(encoding='utf-8').split('## Ours in full')[0]
    methods = set(re.findall(r'^\| ([\w-]+) \| \[', table, re.M))
    named = {method for words in COMPARISONS for method in words.split('--datasets')[0].split()[1:]}
    apart = set(re.findall(r'`(\w+)`', PAGE))
    stems = {method.removesuffix('_on-test') for method in named} | named | apart
    assert len(methods) > 45
    assert not {method for method in methods if method not in stems and f'train {method}_imagenet`' not in PAGE}
    folders = {path.parent.name for path in CONFIGS.glob('*/metafile.yml')} - {'clip_baselines', 'vpt', 'upl'}
    commands = ' '.join(re.findall(r'`(?:vlm-dense (?:train|test) )?([\w-]+)`', PAGE))
    assert not {name for name in folders - methods if f' {name}' not in f' {commands}'}


def test_commands_on_one_config_name_one():
    found = re.findall(r'`vlm-dense (train|test) ([a-z][\w-]*)`', PAGE)
    assert len(found) > 15 and {config for _, config in found} <= STEMS


def test_tables_of_segmentation_have_the_published_figures():
    figures, seen = published(), 0
    for sets, body in re.findall(r'\| configs \| (.*) \|\n\|[-|]+\n((?:\| .*\n)+)', PAGE):
        for line in body.splitlines():
            name, *cells = (cell.strip().strip('`') for cell in line.strip('|').split('|'))
            for dataset, cell in zip(re.findall('`(.*?)`', sets), cells, strict=True):
                config = f'{name}_{dataset}'
                assert (cell != '') == (config in STEMS), config
                assert cell in ('', '-') or float(cell) == figures[config]['mIoU']
                assert cell != '-' or 'mIoU' not in figures.get(config, {})
                seen += cell not in ('', '-')
    assert seen > 150
