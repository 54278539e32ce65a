"""The list of figures is that of the pages, and the program sees what differs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace

import figures
import pytest

ROOT = Path(__file__).parents[2]

ENTRIES = figures.read_entries()


@pytest.mark.parametrize('entry', ENTRIES, ids=lambda entry: entry.name)
def test_every_figure_stands_on_its_pages_beside_a_command_that_exists(entry):
    words = entry.command.split()
    assert (ROOT / words[1]).is_file() and (not words[2].endswith('.py') or (ROOT / words[2]).is_file())
    for page in entry.pages:
        text = (ROOT / page).read_text(encoding='utf-8')
        assert all(figure.value in text for figure in entry.figures), page


def test_a_figure_that_differs_is_told(tmp_path, monkeypatch, capsys):
    command = 'python -c "print(\'mIoU: 12.34\')"'
    listed = [
        dict(
            name='a',
            pages=[],
            command=command,
            minutes=1,
            figures=[dict(label='mIoU', find=r'mIoU: ([\d.]+)', value=v)],
        )
        for v in ('12.3', '45.6')
    ]
    listed[1]['name'] = 'b'
    listed.append(dict(listed[0], name='long', minutes=99))
    listed.append(dict(listed[0], name='data', command='python tools/train.py {camvid}'))
    path = tmp_path / 'results.yml'
    path.write_text(json.dumps(dict(own=listed)))  # JSON is YAML
    entries = figures.read_entries(path)
    monkeypatch.setattr(figures, 'read_entries', lambda: entries)
    assert figures.main(['--out', str(tmp_path / 'out')]) == 1
    told = capsys.readouterr().out
    assert 'b        mIoU    45.6  12.3  DIFFERS' in told and '1 figures differ' in told
    assert 'takes 99 minutes' in told and 'needs --data-root camvid=DIR' in told
    assert figures.main(['--out', str(tmp_path / 'out'), '--only', 'a']) == 0


def test_a_share_is_compared_in_percent():
    assert figures.Figure('AP', r'AP: ([\d.]+)', '81.1', factor=100).read('AP: 0.5\nAP: 0.8110') == '81.1'


def test_several_seeds_are_told_by_mean_and_deviation(tmp_path, monkeypatch, capsys):
    program = tmp_path / 'program.py'
    program.write_text(
        "import sys\nprint('mIoU:', 20 + 2 * int(dict(a.split('=') for a in sys.argv[2:]).get('randomness.seed', 0)))"
    )
    figure = dict(label='mIoU', find=r'mIoU: ([\d.]+)', value='22.0 ± 2.0')
    entry = dict(name='a', pages=[], command=f'python {program}', minutes=1, seeds=3, figures=[figure])
    path = tmp_path / 'results.yml'
    for value, status in (('22.0 ± 2.0', 0), ('22.0 ± 1.0', 1), ('21.0 ± 2.0', 1)):
        path.write_text(json.dumps(dict(own=[dict(entry, figures=[dict(figure, value=value)])])))
        with monkeypatch.context() as patch:
            entries = figures.read_entries(path)
            patch.setattr(figures, 'read_entries', lambda entries=entries: entries)
            assert figures.main(['--out', str(tmp_path / 'out')]) == status
        assert '22.0 ± 2.0' in capsys.readouterr().out
    assert {file.name for file in (tmp_path / 'out').glob('*.log')} == {'a.log', 'a_seed1.log', 'a_seed2.log'}


def test_the_seed_is_an_option_of_the_config(tmp_path, monkeypatch):
    taken = []
    monkeypatch.setattr(
        figures.subprocess, 'run', lambda words, **_: taken.append(words) or SimpleNamespace(returncode=0)
    )
    for options in ('', ' --cfg-options tower=tiny-siglip'):
        entry = figures.Entry('a', [], f'python tools/train.py c.py{options}', 1, [], seeds=3)
        figures.run(entry, {}, tmp_path, seed=1)
        (tmp_path / 'a_seed1.log').unlink()
    parser = argparse.ArgumentParser()
    for name in ('program', 'config'):
        parser.add_argument(name)
    parser.add_argument('--cfg-options', nargs='+')
    parser.add_argument('--work-dir')
    assert ['randomness.seed=1' in parser.parse_args(words[1:]).cfg_options for words in taken] == [True, True]
