"""A release has one version everywhere, and its notes are the sections of the changelog."""

from __future__ import annotations

import datetime

import pytest
import release


def files(folder, version='1.2.0', citation='1.2.0', wheel='1.2.0', section='1.2.0'):
    (folder / 'vlm_dense').mkdir()
    (folder / 'vlm_dense' / '__init__.py').write_text(f"__version__ = '{version}'\n")
    (folder / 'CITATION.cff').write_text(f'cff-version: 1.2.0\nversion: {citation}\n')
    (folder / 'README.md').write_text(f"pip install 'vlm_dense-{wheel}-py3-none-any.whl[mm]'\n")
    (folder / 'CHANGELOG.md').write_text(f'# Changelog\n\n## {section}\n\n- New.\n\n## 1.1.0\n\n- Old.\n')
    return folder


def test_one_version_everywhere(tmp_path):
    assert release.version_of(files(tmp_path)) == '1.2.0'


def test_a_file_with_another_version_is_named(tmp_path):
    with pytest.raises(release.ReleaseError, match=r'CITATION\.cff has 1\.1\.0; CHANGELOG\.md .* has Unreleased\.'):
        release.version_of(files(tmp_path, citation='1.1.0', section='Unreleased'))


def test_changes_that_are_not_released_get_the_version_and_the_day(tmp_path):
    root = files(tmp_path, section='Unreleased')
    release.cut(root, datetime.date(2026, 12, 1))
    changelog = (root / 'CHANGELOG.md').read_text()
    assert changelog == '# Changelog\n\n## 1.2.0 (2026-12-01)\n\n- New.\n\n## 1.1.0\n\n- Old.\n'
    assert release.version_of(root) == '1.2.0' and release.notes_of('1.2.0', changelog) == '- New.\n'
    with pytest.raises(release.ReleaseError, match='does not begin with the section "Unreleased"'):
        release.cut(root)
    assert (root / 'CHANGELOG.md').read_text() == changelog


def test_an_interpreter_that_does_not_run_is_none(tmp_path, monkeypatch):
    for version, answer in {'3.10': 'exit 127', '3.11': 'echo 3.11', '3.12': 'echo 3.13'}.items():
        shim = tmp_path / f'python{version}'
        shim.write_text(f'#!/bin/sh\n{answer}\n')
        shim.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path))
    found = release.interpreters(('3.10', '3.11', '3.12'))
    assert found == {'3.10': None, '3.11': str(tmp_path / 'python3.11'), '3.12': None, '3.13': None}


def test_notes_are_the_sections_of_the_version():
    changelog = '# Changelog\n\n## 0.2.0: names\n\n- A.\n\n## 0.2.0\n\n- B.\n\n## 0.1.0\n\n- C.\n'
    assert release.notes_of('0.2.0', changelog) == '- A.\n\n- B.\n'
    with pytest.raises(release.ReleaseError, match=r'no text for 0\.3\.0'):
        release.notes_of('0.3.0', changelog)


def test_a_folder_that_is_not_empty_is_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(release, 'version_of', lambda: '0.1.0')
    (tmp_path / 'kept.txt').write_text('x')
    assert release.main(['--out', str(tmp_path)]) == 1
    assert 'is not empty' in capsys.readouterr().err and (tmp_path / 'kept.txt').exists()


def test_a_command_that_fails_ends_the_release(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(release, 'version_of', lambda: '0.1.0')
    monkeypatch.setattr(release.sys, 'executable', '/bin/false')
    assert release.main(['--out', str(tmp_path / 'new')]) == 1
    assert '-m build' in capsys.readouterr().err
