from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from faults.hostile import PHOTO

from vlm_dense.inference.page import free_space


def entry(folder: Path, name: str, size: int, age: float) -> Path:
    path = folder / name / 'a.png'
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(size))
    os.utime(path.parent, (time.time() - age,) * 2)
    return path


def test_the_oldest_are_removed_until_the_rest_fits_and_examples_stay(tmp_path):
    example = entry(tmp_path, 'example', 1000, 9000)
    old, middle, new = (entry(tmp_path, name, 400, age) for name, age in (('a', 30), ('b', 20), ('c', 10)))
    assert free_space(str(tmp_path), {'example'}, most_bytes=800) == 800
    assert [p.exists() for p in (example, old, middle, new)] == [True, False, True, True]
    assert free_space(str(tmp_path), {'example'}, most_bytes=800, most_age=15) == 400
    assert [p.exists() for p in (example, middle, new)] == [True, False, True]
    assert free_space(str(tmp_path / 'absent'), set()) == 0


def test_the_folder_of_a_page_stays_below_its_bound(tmp_path, monkeypatch):
    pytest.importorskip('gradio')
    from faults import demo_clients

    from vlm_dense.inference import page

    monkeypatch.setattr(page, '_EVERY', 0.05)
    monkeypatch.setattr(page.free_space, '__defaults__', (200_000, 3600))
    with demo_clients.served() as (url, folder):
        client = demo_clients.Client(url)
        for i in range(30):
            client.upload(bytes(50_000), f'{i}.png')
        client.ask(client.upload(PHOTO), 'circle, star')
        time.sleep(1)
        assert sum(p.stat().st_size for p in (folder / 'uploads').rglob('*') if p.is_file()) <= 200_000
        client.ask(client.upload(PHOTO), 'circle, star')  # it goes on


@pytest.mark.slow
def test_a_page_that_is_terminated_leaves_no_folder(tmp_path):
    pytest.importorskip('gradio')
    command = [sys.executable, '-m', 'vlm_dense', 'demo', '--model', 'maskclip_tiny-vit_shapes', '--device', 'cpu']
    environment = dict(os.environ, TMPDIR=str(tmp_path), PYTHONUNBUFFERED='1')
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as page:
        for line in page.stdout:
            if 'http://' in line:
                break
        assert any(tmp_path.iterdir())
        page.send_signal(signal.SIGTERM)
        assert page.wait(60) in (0, 2)
    assert not [p for p in tmp_path.iterdir() if p.is_dir() and p.name.startswith(tempfile.gettempprefix())]
