"""The published model's config: without data, without weights, and on a miniature of both."""

from __future__ import annotations

import pytest
from engine.published import ROOT, SMALL_ADE20K, message, trained, weights_at, write_ade20k, write_rn50

CONFIG = str(ROOT / 'configs' / 'denseclip_ade20k.py')


@pytest.fixture
def data(tmp_path):
    return write_ade20k(tmp_path / 'ade')


def test_without_data_the_folders_that_are_missing_are_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = message(capsys, CONFIG, '--work-dir', str(tmp_path / 'work'))
    assert 'images/training' in text and '--data-root DIR' in text


def test_without_weights_the_file_and_a_bundled_model_are_named(capsys, data, tmp_path):
    absent = str(tmp_path / 'RN50.pt')
    options = ['--cfg-options', *SMALL_ADE20K, *weights_at(absent), 'visualizer.name=absent']
    text = message(capsys, CONFIG, '--data-root', str(data), '--work-dir', str(tmp_path / 'work'), *options)
    assert absent in text and 'tiny-rn' in text


def test_it_trains_and_validates_on_openais_layout(data, tmp_path):
    weights = weights_at(write_rn50(tmp_path / 'RN50.pt'))
    rows = trained(CONFIG, data, tmp_path / 'work', *SMALL_ADE20K, *weights, 'visualizer.name=present')
    assert [r['step'] for r in rows if 'loss' in r] == [1, 2]
    assert 'mIoU' in rows[-1]
