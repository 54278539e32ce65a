"""The notebook of the first quarter of an hour runs from the first cell to the last."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

nbformat = pytest.importorskip('nbformat')
nbclient = pytest.importorskip('nbclient')

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / 'docs/notebooks/first_quarter_hour.ipynb'


def test_it_runs_in_any_folder(monkeypatch, tmp_path):
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    book = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(book, timeout=600, resources={'metadata': {'path': str(tmp_path)}}).execute()
    outputs = [output for cell in book.cells if cell.cell_type == 'code' for output in cell.outputs]
    said = ''.join(output.get('text', '') for output in outputs)
    figures = re.findall(r'mIoU after 30 iterations: ([\d.]+)', said)
    assert len(figures) == 2 and all(5 < float(figure) <= 100 for figure in figures)
    assert 'KgCoOpPrompt' in said
    assert sum('image/png' in output.get('data', {}) for output in outputs) == 3


def test_it_is_small():
    assert NOTEBOOK.stat().st_size < 300_000
