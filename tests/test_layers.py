"""The layers of the package, written down in pyproject.toml, hold; see docs/architecture.md."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINT = 'import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))'


def lint(folder):
    """Exit status and output of import-linter on a copy of the package."""
    done = subprocess.run([sys.executable, '-c', LINT], cwd=folder, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copied(tmp_path):
    """A copy of the sources and of the contracts."""
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    keep_python = lambda folder, names: [n for n in names if not (n.endswith('.py') or Path(folder, n).is_dir())]  # noqa: E731
    shutil.copytree(
        ROOT / 'vlm_dense',
        tmp_path / 'vlm_dense',
        ignore=lambda folder, names: {*keep_python(folder, names), '.mim', '__pycache__', 'data', 'bundled'},
    )
    return tmp_path


def test_all_contracts_are_kept(copied):
    status, told = lint(copied)
    assert status == 0, told
    assert '0 broken' in told


@pytest.mark.parametrize(
    ('module', 'line', 'named'),
    [
        ('clip/digest.py', 'from vlm_dense.engine import messages', 'vlm_dense.clip is not allowed to import'),
        ('contract/roles.py', 'from vlm_dense.engine import messages', 'vlm_dense.contract is not allowed to import'),
        (
            'segmentation/pamr.py',
            'from vlm_dense.detection import coco',
            'is not allowed to import vlm_dense.detection',
        ),
        ('segmentation/pamr.py', 'from vlm_dense.ops import pooling', 'vlm_dense.ops'),
        ('engine/models.py', 'from mmseg.models import losses', 'vlm_dense.engine is not allowed to import mmseg'),
        (
            'engine/models.py',
            'from vlm_dense.engine.runner import seeding',
            'No cycles are allowed in vlm_dense.engine',
        ),
    ],
)
def test_a_planted_import_is_found(copied, module, line, named):
    with (copied / 'vlm_dense' / module).open('a') as file:
        file.write(f'\n{line}\n')
    status, told = lint(copied)
    assert status == 1
    assert named in told


def test_no_module_imports_private_names_of_another():
    found = [
        f'{path.relative_to(ROOT)}: {alias.name} of {node.module}'
        for path in (ROOT / 'vlm_dense').rglob('*.py')
        if '.mim' not in path.parts
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('vlm_dense')
        for alias in node.names
        if alias.name.startswith('_') and not alias.name.startswith('__')
    ]
    assert found == []
