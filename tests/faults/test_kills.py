"""A handful of the kills that ``kills.py`` makes by the hundred."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kills_program(*words: str) -> str:
    """What the program prints; it finds no difference."""
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=path)
    command = [sys.executable, str(Path(__file__).with_name('kills.py')), *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize(
    ('kind', 'kills'),
    [
        ('segmentor', 3),
        ('label_hook', 2),
        ('classifier', 1),
        ('pseudo_label', 2),
        ('detector', 1),
        ('compare', 1),
        ('compare_dense', 1),
    ],
)
def test_a_run_that_is_killed_at_random_moments_leaves_what_an_uninterrupted_one_does(tmp_path, kind, kills):
    told = kills_program('--kind', kind, '--kills', str(kills), '--folder', str(tmp_path / 'kills'))
    assert f'{kills} kills, 0 failures' in told


def test_the_same_command_goes_on_and_a_bound_in_time_holds(tmp_path):
    command = ['--kind', 'pseudo_label', '--folder', str(tmp_path)]
    assert kills_program(*command, '--kills', '200', '--minutes', '0.05').startswith('pseudo_label')
    before = json.loads((tmp_path / 'pseudo_label' / 'state.json').read_text())
    assert len(before['moments']) < 200
    kills_program(*command, '--kills', str(len(before['moments']) + 1))
    after = json.loads((tmp_path / 'pseudo_label' / 'state.json').read_text())
    assert after['moments'][:-1] == before['moments'] and after['counted'] == before['counted']
