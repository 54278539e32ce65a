"""The documentation builds strictly, and its pages load nothing from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip('mkdocstrings')

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('site')
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(folder)]
    surroundings = os.environ | dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', NO_MKDOCS_2_WARNING='1')
    done = subprocess.run(command, cwd=ROOT, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_pages_are_there(site):
    start = (site / 'index.html').read_text('utf-8')
    assert 'CLIP for dense prediction' in start and 'tools/train.py' in start
    method = (site / 'methods/maple/index.html').read_text('utf-8')
    assert 'vlm_dense.methods.joint_prompts.maple.MaPLePrompt' in method and 'Own figures' in method
    api = (site / 'reference/methods.adapters/index.html').read_text('utf-8')
    assert 'id="vlm_dense.methods.adapters.tip_adapter.TipAdapter"' in api
    assert 'TipAdapter' in (site / 'search/search_index.json').read_text('utf-8')


def test_numbered_lists_with_code_in_them_stay_lists(site):
    page = (site / 'denseclip/index.html').read_text('utf-8')
    listed = re.search(r'Train a published model.*?<ol>(.*?)</ol>', page, re.S)[1]
    assert len(re.findall(r'<li>', listed)) == 4 and 'model.backbone.pretrained' in listed


def test_guides_stand_above_the_api_in_the_search(site):
    entries = json.loads((site / 'search/search_index.json').read_text('utf-8'))['docs']
    boosts = {entry['location'].split('#')[0].rstrip('/'): entry.get('boost', 1) for entry in entries}
    assert boosts['own_data'] > boosts[''] == boosts['denseclip'] > boosts['methods/maple'] == boosts['changelog']
    assert boosts['changelog'] > boosts['reference/datasets']


def test_a_reader_asks_nobody_else(site):
    loaded = re.compile(r'<(?:script|img|iframe|link)[^>]+(?:src|href)="?((?:https?:)?//[^"\s>]+)')
    for page in site.rglob('*.html'):
        assert loaded.findall(page.read_text('utf-8')) == [], page
    for style in site.rglob('*.css'):
        assert not re.search(r'url\(["\']?(https?:)?//', style.read_text('utf-8')), style
