"""Every folder of configs has a page and a metafile that name each of its configs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FOLDERS = sorted(p for p in (ROOT / 'configs').iterdir() if p.is_dir() and p.name != '_base_')


@pytest.mark.parametrize('folder', FOLDERS, ids=lambda p: p.name)
def test_page_and_metafile_name_every_config(folder):
    page = (folder / 'README.md').read_text(encoding='utf-8')
    meta = yaml.safe_load((folder / 'metafile.yml').read_text(encoding='utf-8'))
    collections = {c['Name'] for c in meta['Collections']}
    assert all(model['In Collection'] in collections for model in meta['Models'])
    listed = {model['Config'] for model in meta['Models']}
    assert listed == {f'configs/{folder.name}/{p.name}' for p in folder.glob('*.py')}
    assert all(model['Name'] == Path(model['Config']).stem for model in meta['Models'])
    assert all(p.stem in page for p in folder.glob('*.py'))
    for collection in meta['Collections']:
        assert collection['Paper']['Title'] and collection['Paper']['URL'] and (ROOT / collection['README']).is_file()
