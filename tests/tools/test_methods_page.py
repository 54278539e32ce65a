"""docs/methods.md: what its generator writes from methods and figures."""

from __future__ import annotations

import json
import re
from pathlib import Path

import methods_page
import pytest

from vlm_dense.comparison import report
from vlm_dense.errors import DataError

ROOT = Path(__file__).parents[2]
DOCS, CONFIGS = ROOT / 'docs', ROOT / 'configs'


def row(method: str, test: str, value: float, seed: int = 1, protocol: str = 'few-shot', shots: int = 16) -> dict:
    plain = dict.fromkeys(report.FIELDS, 1) | dict(dataset='shapes', metric='top1', transductive=False)
    plain |= dict(selection='none', labels='given', tower='tiny-rn')
    return plain | dict(method=method, test=test, value=value, seed=seed, protocol=protocol, shots=shots)


@pytest.fixture
def docs(tmp_path):
    for folder in ('data', 'images', 'compared', 'configs'):
        (tmp_path / folder).mkdir()
    methods = dict(
        a=dict(paper='A Paper, CVPR 2022', trains='vectors', published='59.1'), b=dict(paper='B', trains='nothing')
    )
    (tmp_path / 'data/methods.json').write_text(json.dumps(methods))
    (tmp_path / 'configs/a_shapes.py').write_text('')
    return tmp_path


def test_without_figures_the_methods_are_listed(docs):
    text = methods_page.page(docs, docs / 'configs')
    assert '| a | A Paper, CVPR 2022 | vectors | [shapes](../configs/a_shapes.py) | - | 59.1 |' in text
    assert '| b | B | nothing | - | - | - |' in text and '## Ours in full' not in text


def test_figures_of_a_comparison_are_kept_and_shown(docs):
    rows = [row('a', 'test', 50.0), row('a', 'test', 60.0, seed=2), row('a', 'test', 10.0, shots=1)]
    rows += [row('a', test, value, protocol='base-to-new') for test, value in (('base', 80.0), ('new', 60.0))]
    report.write_csv(rows, docs / 'compared/results.csv')
    (docs / 'compared/results.png').write_bytes(b'picture')
    (docs / 'compared/results.md').write_text('# Comparison\n\n`python tools/compare.py --methods a`\n')
    methods_page.keep_figures(docs / 'compared', docs)
    text = methods_page.page(docs, docs / 'configs')
    assert '| [shapes](../configs/a_shapes.py) | 55.0 ± 7.1; 80.0 / 60.0 / 68.6 | 59.1 |' in text
    assert '```bash\npython tools/compare.py --methods a\n```' in text and '### shapes, few-shot, top1' in text
    assert (docs / 'images/compare_shapes.png').read_bytes() == b'picture'


def test_figures_of_methods_that_a_comparison_lacks_are_not_lost(docs):
    report.write_csv([row('a', 'test', 50.0), row('b', 'test', 60.0)], docs / 'data/compare_shapes.csv')
    before = (docs / 'data/compare_shapes.csv').read_bytes()
    report.write_csv([row('a', 'test', 50.0)], docs / 'compared/results.csv')
    (docs / 'compared/results.md').write_text('`python tools/compare.py --methods a`\n')
    with pytest.raises(DataError, match='no figures of 1 methods that the page has: b'):
        methods_page.keep_figures(docs / 'compared', docs)
    assert (docs / 'data/compare_shapes.csv').read_bytes() == before


def test_figures_of_the_benchmark_are_those_of_several_comparisons(docs):
    for name, protocol, tests in (('one', 'base-to-new', ('base', 'new')), ('two', 'hierarchical', ('test',))):
        folder = docs / name
        folder.mkdir()
        rows = [row('a', test, 40.0, protocol=protocol) for test in tests]
        report.write_csv(rows, folder / 'results.csv')
        (folder / 'results.md').write_text(f'# Comparison\n\n`python tools/compare.py --protocols {protocol}`\n')
    methods_page.keep_benchmark([docs / 'one', docs / 'two'], docs)
    text = methods_page.page(docs, docs / 'configs')
    for protocol in ('base-to-new', 'hierarchical'):
        assert f'```bash\npython tools/compare.py --protocols {protocol}\n```' in text
        assert f'### shapes, {protocol}' in text
    assert '| a | 40.0 | 40.0 | 40.0 |' in text and (docs / 'images/benchmark.png').is_file()
    (docs / 'empty').mkdir()
    (docs / 'empty/results.md').write_text('# Comparison\n')
    report.write_csv([], docs / 'empty/results.csv')
    with pytest.raises(DataError, match='empty holds no finished comparison'):
        methods_page.keep_benchmark([docs / 'empty'], docs)


def test_the_page_in_the_repository_is_what_the_generator_writes():
    written = (ROOT / 'docs/methods.md').read_text('utf-8')
    links = r'\[\w+\]\(\.\./(configs/\w+/\w+\.py)\)(, )?'  # a config may come later than the page
    without = [re.sub(links, '', text).replace('|  |', '| - |') for text in (written, methods_page.page(DOCS, CONFIGS))]
    assert without[0] == without[1], 'run python tools/dev/methods_page.py'
    assert all((ROOT / path).is_file() for path, _ in re.findall(links, written))
