"""What is made of the records of the methods is not stale, agrees with the programs, and needs their own files only."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cards
import pages
import pytest
import records
import yaml
from site_pages import zoo as site

from vlm_dense import zoo
from vlm_dense.cli import models
from vlm_dense.comparison import report
from vlm_dense.errors import DataError

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(p for p in (ROOT / 'configs').iterdir() if p.is_dir() and not p.name.startswith('_'))

TOY = '''"""Toy: moves all classes.

One. Two. Three.
"""

PAPER = dict(
    name='Toy',
    title='A Paper on Toys',
    venue='CVPR 2022',
    link='https://arxiv.org/abs/1',
    code='https://github.com/a/toys',
    licence='MIT',
    idea='Moves all classes.',
    trains='vectors',
    published='59.1',
    variants={'toy_deep': dict(trains='more vectors')},
)
'''
CONFIG = "# Toy on drawn scenes. More words.\n_base_ = '../_base_/datasets/shapes.py'\ntrain_cfg = dict()\n"


@pytest.fixture
def root(tmp_path):
    """A repository with one method, landed by its file, its configs and one line of results."""
    for name in (
        'docs/data',
        'docs/images',
        'configs/toy',
        'configs/_base_/datasets',
        'vlm_dense/methods/text_prompts',
    ):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / 'vlm_dense/methods/text_prompts/toy.py').write_text(TOY)
    (tmp_path / 'configs/_base_/datasets/shapes.py').write_text('train_dataloader = dict()\n')
    for name in ('toy_shapes', 'toy_deep_shapes', 'toy_imagenet'):
        (tmp_path / f'configs/toy/{name}.py').write_text(CONFIG)
    (tmp_path / 'docs/data/results.yml').write_text(
        'published:\n- {model: toy_imagenet, data: ImageNet, metric: Top 1 Accuracy, value: 61.25}\nown: []\n'
    )
    for cached in (records.read_methods, records.read_results, records.comparisons):
        cached.cache_clear()
    yield tmp_path
    for cached in (records.read_methods, records.read_results, records.comparisons):
        cached.cache_clear()


# --- the repository -------------------------------------------------------------------------------------------


def test_nothing_that_is_made_is_stale():
    made = pages.made()
    stale = [str(path.relative_to(ROOT)) for path, text in made.items() if path.read_text('utf-8') != text]
    assert stale == [], 'run python tools/dev/pages.py'
    assert {path for path in made if path.suffix == '.yml'} == {
        ROOT / 'model-index.yml',
        *(folder / 'metafile.yml' for folder in FOLDERS),
    }


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda p: p.name)
def test_openmim_finds_every_config_and_the_source_of_its_figures(folder):
    meta = yaml.safe_load((folder / 'metafile.yml').read_text('utf-8'))
    assert {model['Config'] for model in meta['Models']} == {
        f'configs/{folder.name}/{p.name}' for p in folder.glob('*.py')
    }
    for model in meta['Models']:
        assert model['Name'] == Path(model['Config']).stem and model['In Collection'] == meta['Collections'][0]['Name']
        for result in model.get('Results', ()):
            assert set(result) == {'Task', 'Dataset', 'Metrics', 'Published'} and isinstance(result['Published'], bool)
    collection = meta['Collections'][0]
    assert collection['Paper']['Title'] and collection['Paper']['URL'] and (ROOT / collection['README']).is_file()
    assert all(p.stem in (folder / 'README.md').read_text('utf-8') for p in folder.glob('*.py'))


def test_the_command_and_the_zoo_page_have_the_same_figures():
    every = records.read_methods(ROOT)
    rows = [
        [cell.strip() for cell in line.split('|')]
        for task in site.TASKS
        for line in site.zoo_page(every, task).splitlines()
        if line.startswith('| [')
    ]
    page = {re.match(r'\[(.+?)\]', row[1])[1]: row[-3:-1] for row in rows}
    numbers = re.compile(r'(?<![\w.-])\d+\.\d+')
    told = {card.name: [models.figures(card, published) for published in (True, False)] for card in zoo.cards()}
    assert page.keys() == told.keys()
    for name, cells in page.items():
        assert [numbers.findall(cell) for cell in cells] == [numbers.findall(cell) for cell in told[name]], name
    assert '63.42' in told['ape_on-test_imagenet'][0] and told['ape_on-test_imagenet'][1] == ''
    own = yaml.safe_load((ROOT / 'docs' / 'data' / 'results.yml').read_text(encoding='utf-8'))['own']
    dense = next(entry['figures'][0]['value'] for entry in own if entry['name'] == 'denseclip_shapes')
    assert f'mIoU {dense.partition(" ")[0]} ' in told['denseclip_shapes'][1] and '56.6' in told['coop_shapes'][1]


def test_a_method_that_a_comparison_has_has_figures_of_ours():
    text = pages.page(records.read_methods(ROOT), ROOT / 'docs')
    compared = {row['method'] for _, _, rows in records.comparisons(ROOT) for row in rows}
    rows = [line.split(' | ') for line in text.partition('\n## ')[0].splitlines() if line.startswith('| ')][1:]
    without = {row[0].strip('| ') for row in rows if row[-2] == '-'}
    assert len(rows) > 45 and not without & compared


# --- one method in a repository of its own --------------------------------------------------------------------


def test_a_method_is_landed_by_its_file_and_its_configs(root):
    (method,) = records.read_methods(root)
    assert [config.what for config in method.configs] == ['Toy on drawn scenes'] * 3
    assert [config.data for config in method.configs] == ['Shapes', 'ImageNet', 'Shapes']
    readme = cards.readme(method)
    assert '> [A Paper on Toys](https://arxiv.org/abs/1), CVPR 2022. Official code: [a/toys]' in readme
    assert (
        '| [toy_imagenet.py](toy_imagenet.py) | Toy on drawn scenes | ImageNet | Top 1 Accuracy 61.25 | - |' in readme
    )
    assert 'python tools/train.py configs/toy/toy_shapes.py' in readme and 'One. Two. Three.' in readme
    text = pages.page([method], root / 'docs')
    links = '[imagenet](../configs/toy/toy_imagenet.py), [shapes](../configs/toy/toy_shapes.py)'
    assert f'| toy | [A Paper on Toys](https://arxiv.org/abs/1), CVPR 2022 | vectors | {links} | - | 59.1 |' in text
    assert (
        '| more vectors | [shapes](../configs/toy/toy_deep_shapes.py) | - | - |' in text and 'Ours in full' not in text
    )
    assert yaml.safe_load(cards.index([method])) == dict(Import=['configs/toy/metafile.yml'])


@pytest.mark.parametrize(
    ('path', 'old', 'new', 'expected'),
    [
        ('vlm_dense/methods/text_prompts/toy.py', "venue='CVPR 2022',", '', 'PAPER cannot be read .*venue'),
        ('vlm_dense/methods/text_prompts/toy.py', 'venue=', "year='2022', venue=", 'PAPER cannot be read .*year'),
        ('vlm_dense/methods/text_prompts/toy.py', "'CVPR 2022'", "'CVPR ' + str(2022)", 'PAPER cannot be read'),
        ('vlm_dense/methods/text_prompts/toy.py', "licence='MIT',", '', 'has code and no licence'),
        ('vlm_dense/methods/text_prompts/toy.py', 'PAPER', 'RECORD', 'configs/toy has no method'),
        ('configs/toy/toy_shapes.py', '# Toy', 'x = 1  # Toy', 'does not begin with a comment'),
        ('docs/data/results.yml', 'toy_imagenet', 'toy_imgnet', "Did you mean 'toy_imagenet'"),
        ('docs/data/results.yml', 'value: 61.25', 'value: 61.25, published: true', 'has other keys than'),
        ('docs/data/results.yml', 'published:', 'Published:', 'published and own are expected'),
    ],
)
def test_what_is_missing_or_unknown_is_told(root, path, old, new, expected):
    file = root / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=expected):
        cards.readme(records.read_methods(root)[0])


# --- comparisons ----------------------------------------------------------------------------------------------


def row(method: str, test: str, value: float, seed: int = 1, protocol: str = 'few-shot', shots: int = 16) -> dict:
    plain = dict.fromkeys(report.FIELDS, 1) | dict(dataset='shapes', metric='top1', transductive=False)
    plain |= dict(selection='none', labels='given', tower='tiny-rn')
    return plain | dict(method=method, test=test, value=value, seed=seed, protocol=protocol, shots=shots)


def test_figures_of_a_comparison_are_kept_and_shown(root):
    docs, compared = root / 'docs', root / 'compared'
    compared.mkdir()
    rows = [row('toy', 'test', 50.0), row('toy', 'test', 60.0, seed=2), row('toy', 'test', 10.0, shots=1)]
    rows += [row('toy', test, value, protocol='base-to-new') for test, value in (('base', 80.0), ('new', 60.0))]
    report.write_csv(rows, compared / 'results.csv')
    (compared / 'results.png').write_bytes(b'image')
    (compared / 'results.md').write_text('# Comparison\n\n`python tools/compare.py --methods toy`\n')
    pages.keep_figures(compared, docs)
    methods = records.read_methods(root)
    text = pages.page(methods, docs)
    assert '| 55.0 ± 7.1; 80.0 / 60.0 / 68.6 | 59.1 |' in text
    assert '```bash\npython tools/compare.py --methods toy\n```' in text and '### shapes, few-shot, top1' in text
    assert (docs / 'images/compare_shapes.png').read_bytes() == b'image'
    shown = next(config for config in methods[0].configs if config.name == 'toy_shapes')
    assert shown.told(False) == 'top1 (16 shots) 55.0' and shown.told(True) == ''


def test_figures_of_methods_that_a_comparison_lacks_are_not_lost(root):
    docs, compared = root / 'docs', root / 'compared'
    compared.mkdir()
    report.write_csv([row('a', 'test', 50.0), row('b', 'test', 60.0)], docs / 'data/compare_shapes.csv')
    before = (docs / 'data/compare_shapes.csv').read_bytes()
    report.write_csv([row('a', 'test', 50.0)], compared / 'results.csv')
    (compared / 'results.md').write_text('`python tools/compare.py --methods a`\n')
    with pytest.raises(DataError, match='no figures of 1 methods that the page has: b'):
        pages.keep_figures(compared, docs)
    assert (docs / 'data/compare_shapes.csv').read_bytes() == before


def test_figures_of_the_benchmark_are_those_of_several_comparisons(root):
    docs = root / 'docs'
    for name, protocol, tests in (('one', 'base-to-new', ('base', 'new')), ('two', 'hierarchical', ('test',))):
        folder = root / name
        folder.mkdir()
        rows = [row('toy', test, 40.0, protocol=protocol) for test in tests]
        report.write_csv(rows, folder / 'results.csv')
        (folder / 'results.md').write_text(f'# Comparison\n\n`python tools/compare.py --protocols {protocol}`\n')
    pages.keep_benchmark([root / 'one', root / 'two'], docs)
    text = pages.page(records.read_methods(root), docs)
    for protocol in ('base-to-new', 'hierarchical'):
        assert f'```bash\npython tools/compare.py --protocols {protocol}\n```' in text
        assert f'### shapes, {protocol}' in text
    assert '| toy | 40.0 | 40.0 | 40.0 |' in text and (docs / 'images/benchmark.png').is_file()
    assert '| shapes, 16 shots: 40.0 / 40.0 / 40.0 |' in text
    assert json.loads((docs / 'data/benchmark.json').read_text())[0]['command'].endswith('base-to-new')
    (root / 'empty').mkdir()
    (root / 'empty/results.md').write_text('# Comparison\n')
    report.write_csv([], root / 'empty/results.csv')
    with pytest.raises(DataError, match='empty holds no finished comparison'):
        pages.keep_benchmark([root / 'empty'], docs)
