"""What the pages of the documentation say is there: links, names, files, ideas, docstrings."""

from __future__ import annotations

import ast
import csv
import re
import statistics
from functools import cache
from pathlib import Path

import pytest
import records
from mkdocs.utils import yaml_load
from site_pages import links, reference, zoo

ROOT = Path(__file__).parents[2]
DOCS = sorted((ROOT / 'docs').rglob('*.md'))
PAGES = [*(ROOT / path for path in links.PAGES), *sorted((ROOT / 'configs').glob('*/README.md')), *DOCS]

names = cache(reference.Reference)
methods = records.read_methods


def of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# --- names ----------------------------------------------------------------------------------------------------


def declared() -> dict[str, str]:
    """Names in ``__all__`` of packages and of registered classes, from the source text -> file."""
    found = {}
    for path in sorted((ROOT / 'vlm_dense').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, ast.ClassDef) and any('register_module' in ast.unparse(d) for d in node.decorator_list):
                found[node.name] = of(path)
            if isinstance(node, (ast.Assign, ast.AugAssign)) and '__all__' in ast.unparse(node).split('=')[0]:
                found |= dict.fromkeys(ast.literal_eval(node.value), of(path))
    return found


def test_every_public_name_has_a_docstring_and_a_place_in_the_reference():
    public = names().public
    assert [each.path for each in public if not each.documented] == []
    shown = {each.path.split('.')[-1] for each in public} | set(names().sections)
    lacking = {
        name: path
        for name, path in declared().items()
        if name not in shown and f'{Path(path).parent}/{name}'.replace('/', '.') not in shown
    }
    modules = {path.stem for path in (ROOT / 'vlm_dense').rglob('*.py')}
    within = {name for name, path in lacking.items() if path.removesuffix('.py').replace('/', '.') in _modules()}
    assert {name: path for name, path in lacking.items() if name not in within | modules} == {}


def _modules() -> set[str]:
    """Modules that the reference shows whole."""
    return {each.path for each in names().public if reference.inspect.ismodule(each.value)}


def test_every_object_is_on_one_page():
    text = '\n'.join(reference.reference_page(*section) for section in names().sections.items())
    shown = re.findall(r'^::: (\S+)$', text, re.M)
    assert len(shown) == len(set(shown)) and {each.path for each in names().public} == set(shown)


def test_a_class_without_docstring_is_told():
    class Bare:
        pass

    assert not reference.Public('vlm_dense.Bare', 'vlm_dense', Bare).documented


@pytest.mark.parametrize('page', DOCS, ids=of)
def test_types_on_a_page_exist(page):
    known = set(names().registered)
    used = re.findall(r"type='vlm_dense\.(\w+)'", page.read_text('utf-8'))
    own = set(re.findall(r'^class (\w+)', page.read_text('utf-8'), re.M))  # the example of new_method.md
    assert set(used) - known - own <= {'X'}


# --- methods --------------------------------------------------------------------------------------------------


def test_every_method_has_an_idea_in_three_sentences():
    found = {method.name: method.idea for method in methods(ROOT)}
    assert len(found) == len(set(found.values()))
    assert {name for name, idea in found.items() if len(re.findall(r'\.(?= [A-Z]|$)', idea)) != 3} == set()


def test_every_method_names_its_parts_and_their_roles():
    for method in methods(ROOT):
        page = zoo.method_page(method, names(), ROOT / 'docs')
        if method.name not in ('clip_baselines',):
            assert re.search(r'^\| \[`vlm_dense\.\w+`\]\[vlm_dense\.\S+\] \| [a-z]', page, re.M), method.name
        assert all(f'{{ #{config.path.stem} }}' in page for config in method.configs)


def coop_figures(shots: int) -> tuple[float, float]:
    """Mean and standard deviation of CoOp on Shapes over the seeds, in the file that the comparison wrote."""
    with (ROOT / 'docs/data/compare_shapes.csv').open(encoding='utf-8', newline='') as file:
        rows = [row for row in csv.DictReader(file) if (row['method'], row['protocol']) == ('coop', 'few-shot')]
    values = [float(row['value']) for row in rows if row['shots'] == str(shots)]
    return statistics.mean(values), statistics.stdev(values)


def test_own_figures_are_those_of_the_list():
    page = zoo.method_page(next(m for m in methods(ROOT) if m.name == 'maskclip'), names(), ROOT / 'docs')
    entries = yaml_load((ROOT / 'docs/data/results.yml').read_text('utf-8'))['own']
    (own,) = (entry for entry in entries if entry['name'] == 'maskclip_tiny-vit_shapes')
    assert f'mIoU **{own["figures"][0]["value"]}**' in page and own['command'] in page
    page = zoo.method_page(next(m for m in methods(ROOT) if m.name == 'coop'), names(), ROOT / 'docs')
    found = [coop_figures(shots) for shots in (1, 4, 16)]
    assert f'| coop | {" | ".join(f"{mean:.1f} ± {deviation:.1f}" for mean, deviation in found)} |' in page


def test_the_zoo_lists_every_config_once():
    text = ''.join(zoo.zoo_page(methods(ROOT), task) for task in zoo.TASKS)
    found = re.findall(r'^\| \[[^]]+\]\((configs/\S+\.py)\)', text, re.M)
    assert sorted(found) == sorted(of(path) for path in (ROOT / 'configs').glob('[!_]*/*.py'))
    assert (
        '| mIoU 43.5, mIoU (scales, flip) 44.7 |' in text and f'| top1 (16 shots) {coop_figures(16)[0]:.1f} |' in text
    )
    assert 'no trained weights to download' in text


# --- links and files ------------------------------------------------------------------------------------------


def slug(heading: str) -> str:
    plain = re.sub(r'\[([^]]*)\]\([^)]*\)', r'\1', heading).replace('`', '')
    return re.sub(r'[-\s]+', '-', re.sub(r'[^\w\s-]', '', plain).strip().lower())


@pytest.mark.parametrize('page', PAGES, ids=of)
def test_links_lead_to_files_and_headings(page):
    text = re.sub(r'^ *```.*?^ *```', '', page.read_text('utf-8'), flags=re.M | re.S)
    for link in re.findall(r'\]\(([^)\s]+)\)', re.sub(r'`[^`\n]+`', '', text)):
        if re.match(r'[a-z]+:', link):
            continue
        path, _, anchor = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        made = (ROOT / 'docs').resolve() in target.parents and target.parent.name in ('methods', 'zoo', 'reference')
        assert target.exists() or made, f'{link} on {of(page)}'
        if anchor and target.suffix == '.md':
            headings = re.findall(r'^#+ (.+)$', target.read_text('utf-8'), re.M)
            assert anchor in map(slug, headings), f'{link} on {of(page)}'


@pytest.mark.parametrize('page', [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', *DOCS], ids=of)
def test_files_that_a_page_names_exist(page):
    text = page.read_text('utf-8')
    if page.parent.name == 'migration':
        text = re.sub(r'^\| .*? \|', '', text, flags=re.M)  # the files of others
    for path in re.findall(r'(?<![\w./-])((?:tools|configs|tests)/[\w./-]+\.(?:py|sh|md))', text):
        assert (ROOT / path).is_file() or page.stem == 'new_method', f'{path} on {of(page)}'


@pytest.mark.parametrize('page', ['architecture', 'by_hand'])
def test_packages_and_files_of_the_code_that_a_page_names_exist(page):
    """Paths are below vlm_dense, in the second column of a table."""
    cells = re.findall(r'^\| [^|]+ \| ([^|]+) \|', (ROOT / f'docs/{page}.md').read_text('utf-8'), re.M)
    paths = [path for cell in cells for path in re.findall(r'`([a-z_]+(?:/[\w.]+)*/?(?:\.py)?)`', cell)]
    paths = [path for path in paths if '/' in path or page == 'by_hand']
    assert len(paths) > 8
    roots = (ROOT, ROOT / 'vlm_dense')
    assert [path for path in paths if not any((root / path).exists() for root in roots)] == []


def test_the_drawing_of_the_layers_is_that_of_the_linter():
    text = (ROOT / 'docs/architecture.md').read_text('utf-8')
    drawn = set(re.findall(r'<b>(\w+)</b>', text)) | {'registry', 'errors'}
    layers = re.search(r'^layers = \[\n(.*?)^\]', (ROOT / 'pyproject.toml').read_text('utf-8'), re.M | re.S)[1]
    ranks = {name: i for i, line in enumerate(layers.splitlines()) for name in re.findall(r'vlm_dense\.(\w+)', line)}
    small = {'libraries', 'light', 'colours', 'drawing', 'limits'}  # single files without a box of their own
    assert ranks.keys() - small == drawn - {'ops'}
    arrows = re.findall(r'^    (\w+)(?:\[[^]]*\])? --> ([\w &]+)$', text, re.M)
    steps = [(start, end) for start, ends in arrows for end in ends.split(' & ') if start != 'tools']
    assert len(steps) > 15 and all(ranks[start] < ranks[end] for start, end in steps)


def test_every_page_is_in_the_navigation():
    nav = yaml_load((ROOT / 'mkdocs.yml').read_text('utf-8'))['nav']
    listed = set(re.findall(r'[\w/]+\.md', str(nav)))
    notebooks = {f'notebooks/{path.stem}.md' for path in (ROOT / 'docs/notebooks').glob('*.ipynb')}
    wanted = {of(page).removeprefix('docs/') for page in DOCS} | notebooks | set(links.PAGES.values())
    assert wanted - listed == set(), 'add these pages to nav in mkdocs.yml'


def test_links_of_the_repository_become_links_of_the_site():
    text = 'See [a](../configs/coop/coop_shapes.py), [b](ops.md#x) and `[c](d)`; [`i`, j](../README.md).\n```\n[e](f)\n```\n[g](https://h)'
    changed = links.to_site(text, 'docs/contract.md', 'contract.md')
    assert '[a](methods/coop.md#coop_shapes)' in changed and '[b](ops.md#x)' in changed
    assert (
        '[`i`, j](index.md)' in changed
        and '`[c](d)`' in changed
        and '[e](f)' in changed
        and '[g](https://h)' in changed
    )
    changed = links.to_site('[a](coop_shapes.py), [b](../../docs/ops.md)', 'configs/coop/README.md', 'methods/coop.md')
    assert changed == '[a](coop.md#coop_shapes), [b](../ops.md)'
    assert links.to_site('[a](../tests/conftest.py)', 'docs/ops.md', 'ops.md') == 'a'


# --- snippets -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('page', sorted((ROOT / 'docs/migration').glob('*.md')), ids=of)
def test_configs_of_the_migration_pages_are_read(page, tmp_path):
    import mmseg
    from mmengine.config import Config

    (tmp_path / 'configs').symlink_to(ROOT / 'configs')
    (tmp_path / 'mmseg').symlink_to(Path(mmseg.__file__).parent / '.mim' / 'configs')
    snippets = re.findall(r'```python\n(_base_.*?)```', page.read_text('utf-8'), re.S)
    for i, snippet in enumerate(snippets):
        (tmp_path / f'{i}.py').write_text(snippet)
        assert Config.fromfile(tmp_path / f'{i}.py').model.type
    assert snippets or page.stem == 'official_code'
