"""Four shares in four processes, each killed once at a random moment: the bytes of one run."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest
from engine.processes import forked
from PIL import Image

from vlm_dense.inference.bulk.run import NOTES, run
from vlm_dense.inference.bulk.worker import Worker

CLASSES = ['empty background', 'circle', 'star']


def work(images: str, out: str, share: int, format: str, kill: float | None = None) -> None:
    """What each process does, and its kill that many seconds behind the first images; its four parts take longer."""
    worker = Worker(classes=CLASSES, batch_size=2)
    compute, begun = worker.compute, []

    def slow(batch):
        if not begun and kill is not None:
            begun.append(threading.Timer(kill, os.kill, (os.getpid(), signal.SIGKILL)))
            begun[0].start()
        time.sleep(0.1)
        return compute(batch)

    worker.compute = slow
    run(worker, images, out, format, shard=(share, 4), part_size=3)


@pytest.mark.long
@pytest.mark.parametrize('format', ['png', 'tar'])
def test_shares_that_are_killed_write_the_bytes_of_one_run(tmp_path, format):
    (tmp_path / 'images').mkdir()
    figure = Image.open('docs/images/shapes.png').convert('RGB').resize((400, 240))
    for i in range(48):
        figure.crop((5 * i, 2 * i, 5 * i + 80, 2 * i + 60)).save(tmp_path / 'images' / f'{i:02d}.png')
    run(Worker(classes=CLASSES, batch_size=2), tmp_path / 'images', tmp_path / 'once', format, part_size=3)
    generator, out = random.Random(0), tmp_path / 'out'
    arguments = [(str(tmp_path / 'images'), str(out), share, format) for share in range(4)]
    processes = [forked(work, *each, generator.uniform(0, 0.4)) for each in arguments]
    for process in processes:
        process.join()
        assert process.exitcode == -signal.SIGKILL
    assert not (out / 'index.json').exists()
    for process in [forked(work, *each) for each in arguments]:
        process.join()
        assert process.exitcode == 0
    hidden = ('.lock', '.json')  # a share that was killed leaves who had it
    found, once = (
        {p.relative_to(f).as_posix(): p.read_bytes() for p in f.rglob('*') if p.is_file() and p.suffix not in hidden}
        for f in (out, tmp_path / 'once')
    )
    assert found == once and len(once) == (48 if format == 'png' else 16)
    for path in (tmp_path / 'once' / NOTES).glob('*.json'):
        assert (out / NOTES / path.name).read_bytes() == path.read_bytes()
    assert (out / 'index.json').read_bytes() == (tmp_path / 'once' / 'index.json').read_bytes()
    assert not Path(out).joinpath('.part-000000.partial.tar').exists()
