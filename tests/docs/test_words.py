"""Spelling, and the words of the field: .codespell.txt lists those that papers do not use."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ['--config', '.codespell.cfg']


def codespell(*arguments, folder=ROOT) -> tuple[int, str]:
    """Exit status and output."""
    done = subprocess.run(
        [sys.executable, '-m', 'codespell_lib', *map(str, arguments)],
        cwd=folder,
        env=dict(os.environ, COLUMNS='200'),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize('arguments', [[], OURS], ids=['spelling', 'words'])
def test_the_whole_repository_passes(arguments):
    status, told = codespell(*arguments)
    assert status == 0, told


@pytest.mark.parametrize(
    ('text', 'word'),
    [
        ('Each picture is cut.', 'picture'),  # codespell:ignore picture
        ('def load_pictures(): ...', 'pictures'),  # codespell:ignore pictures
        ("key = 'likeness'", 'likeness'),  # codespell:ignore likeness
        ('Take it in the place of a list.', 'in the place of'),  # codespell:ignore
        ('It is read anew.', 'anew'),  # codespell:ignore anew
    ],
)
def test_a_word_that_papers_do_not_use_is_found(text, word, tmp_path):
    for name in ('.codespell.cfg', '.codespell.txt'):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / 'a.py').write_text(text)
    status, told = codespell(*OURS, 'a.py', folder=tmp_path)
    assert status == 65 and f'{word} ==> ' in told
