"""The worker in Ray Data, Spark and Dask on this machine: the bytes of the program ``label``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vlm_dense.inference.bulk.run import run
from vlm_dense.inference.bulk.worker import Worker

CLASSES = ['empty background', 'circle', 'star']


class Label:
    """As in docs/scale.md."""

    def __init__(self):
        self.worker = Worker(classes=CLASSES, batch_size=2)

    def __call__(self, batch):
        found = self.worker(dict(key=batch['path'], image=batch['bytes']))
        return dict(key=found['key'], data=found['data'], error=found['error'])


@pytest.mark.long
def test_ray_data_gives_the_bytes_of_the_program(tmp_path):
    ray = pytest.importorskip('ray')
    pytest.importorskip('pyarrow')
    (tmp_path / 'images').mkdir()
    figure = Image.open('docs/images/shapes.png').convert('RGB').resize((260, 155))
    for i in range(4):
        figure.crop((20 * i, 5 * i, 20 * i + 80, 5 * i + 60)).save(tmp_path / 'images' / f'{i}.png')
    (tmp_path / 'images' / 'bad.png').write_bytes(b'no image')
    expected = tmp_path / 'expected'
    run(Worker(classes=CLASSES, batch_size=2), tmp_path / 'images', expected)
    path = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    environment = dict(env_vars=dict(PYTHONPATH=':'.join(path), OMP_NUM_THREADS='1'))
    ray.init(num_cpus=2, include_dashboard=False, runtime_env=environment, configure_logging=False)
    try:
        images = ray.data.read_binary_files(str(tmp_path / 'images'), include_paths=True)
        rows = images.map_batches(Label, batch_size=8, concurrency=1, num_cpus=1).take_all()
    finally:
        ray.shutdown()
    found = {Path(row['key']).name: row['data'] for row in rows if not row['error']}
    assert found == {path.name: path.read_bytes() for path in expected.glob('*.png')} and len(rows) == 5


def example(name: str) -> str:
    """Code of docs/scale.md, on the bundled model."""
    page = Path('docs/scale.md').read_text('utf-8')
    code = re.search(rf'\n{name}, .*?```python\n(.*?)```', page, re.S)[1]
    there, here = "'maskclip_vit-b16', classes=('sky', 'road', 'car')", f"'maskclip_tiny-vit', classes={tuple(CLASSES)}"
    assert code.count(there) == 1 and len([line for line in code.splitlines() if line]) <= 15
    return code.replace(there, here)


@pytest.mark.long
@pytest.mark.parametrize('name', ['Spark', 'Dask'])
def test_the_examples_of_the_page_give_the_bytes_of_the_program(name, tmp_path):
    pytest.importorskip(dict(Spark='pyspark', Dask='dask.bag')[name])
    (tmp_path / 'photos').mkdir()
    figure = Image.open('docs/images/shapes.png').convert('RGB').resize((260, 155))
    for i in range(4):
        figure.crop((20 * i, 5 * i, 20 * i + 80, 5 * i + 60)).save(tmp_path / 'photos' / f'{i}.jpg')
    (tmp_path / 'photos' / 'bad.jpg').write_bytes(b'no image')
    run(Worker('maskclip_tiny-vit', classes=CLASSES), tmp_path / 'photos', tmp_path / 'expected')
    (tmp_path / 'example.py').write_text(example(name), encoding='utf-8')
    environment = os.environ | dict(PYTHONPATH=str(Path(__file__).parents[2]), OMP_NUM_THREADS='1')
    environment |= dict(PYSPARK_PYTHON=sys.executable, SPARK_LOCAL_IP='127.0.0.1')
    command = [sys.executable, 'example.py']
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    if name == 'Dask':
        found = {path.name: path.read_bytes() for path in (tmp_path / 'masks').glob('*.png')}
        assert 'photos/bad.jpg' in done.stdout
    else:
        rows = pytest.importorskip('pyarrow.parquet').read_table(tmp_path / 'masks').to_pylist()
        found = {f'{Path(row["path"]).stem}.png': row['data'] for row in rows if not row['error']}
        assert len(rows) == 5
    assert found == {path.name: path.read_bytes() for path in (tmp_path / 'expected').glob('*.png')} and len(found) == 4
