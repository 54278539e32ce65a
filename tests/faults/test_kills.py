"""A handful of the kills that ``kills.py`` makes by the hundred."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(('kind', 'kills'), [('segmentor', 3), ('classifier', 1), ('pseudo_label', 2)])
def test_a_run_that_is_killed_at_random_moments_leaves_what_an_uninterrupted_one_does(tmp_path, kind, kills):
    program = str(Path(__file__).with_name('kills.py'))
    command = [sys.executable, program, '--kind', kind, '--kills', str(kills), '--folder', str(tmp_path / 'kills')]
    path = os.pathsep.join([str(ROOT), os.environ.get('PYTHONPATH', '')])
    environment = dict(os.environ, OMP_NUM_THREADS='1', PYTHONPATH=path)
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f'{kills} kills, 0 failures' in done.stdout
