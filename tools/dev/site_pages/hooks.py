"""Adds the pages generated from README, configs and docstrings; mkdocs calls the functions ``on_*``."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[3]
sys.path[:0] = [str(ROOT), str(ROOT / 'tools' / 'dev')]

import vlm_dense

vlm_dense.setup()  # before others import mmseg
import records

from site_pages import links, notebook, reference, zoo


@cache
def pages() -> dict[str, tuple[str, str]]:
    """Page -> its Markdown, and the file of the repository from which its links start."""
    methods, names = records.read_methods(ROOT), reference.Reference()
    made = {page: ((ROOT / path).read_text('utf-8'), path) for path, page in links.PAGES.items()}
    made['methods/index.md'] = zoo.index_page(methods), 'README.md'
    for method in methods:
        text = zoo.method_page(method, names, ROOT / 'docs')
        made[f'methods/{method.name}.md'] = text, f'configs/{method.name}/README.md'
    for task in zoo.TASKS:
        made[f'zoo/{task.lower()}.md'] = zoo.zoo_page(methods, task), 'README.md'
    for section, objects in names.sections.items():
        made[reference.page_name(section)] = reference.reference_page(section, objects), 'README.md'
    return made


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of methods and packages into the navigation, below the section of that name."""
    for section, folder in (('Methods', 'methods'), ('API', 'reference')):
        entries = next(entry[section] for entry in config.nav if section in entry)
        entries += sorted(page for page in pages() if page.startswith(f'{folder}/') and page not in entries)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for page, (text, _) in pages().items():
        files.append(File.generated(config, page, content=text))
    for path in sorted((ROOT / 'docs/notebooks').glob('*.ipynb')):
        files.remove(files.get_file_from_path(f'notebooks/{path.name}'))
        text, images = notebook.convert(path)
        files.append(File.generated(config, f'notebooks/{path.stem}.md', content=text))
        for name, image in images.items():
            files.append(File.generated(config, f'notebooks/{name}', content=image))
    return files


def boost_of(path: str) -> float:
    """Weight of a page in the search: what users do stands above what there is, and that above the API."""
    if path.startswith('reference/'):
        return 0.05
    if path.startswith(('methods/', 'zoo/', 'changelog')):
        return 0.5
    return 3 if path in ('own_data.md', 'inference.md') else 1


def on_page_markdown(markdown: str, page, **kwargs) -> str:
    """Lead links between files of the repository to their pages."""
    path = page.file.src_uri
    page.meta.setdefault('search', {}).setdefault('boost', boost_of(path))
    return links.to_site(markdown, pages()[path][1] if path in pages() else f'docs/{path}', path)
