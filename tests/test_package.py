"""A wheel holds what the programs need: they work from it, outside of the clone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

pytest.importorskip('setuptools')
ROOT = Path(__file__).parents[1]
SOURCES = ('configs', 'tools', 'vlm_dense', *(path.name for path in ROOT.iterdir() if path.is_file()))


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    """The files that a package is made of, without what was built before."""
    folder = tmp_path_factory.mktemp('source')
    for name in SOURCES:
        if (ROOT / name).is_dir():
            ignore = shutil.ignore_patterns('__pycache__', '.mim')
            shutil.copytree(ROOT / name, folder / name, ignore=ignore)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(folder: Path, command: str, out: Path) -> Path:
    """What a command of setuptools makes, as ``pip wheel`` and ``python -m build`` call it without isolation."""
    code = f'from setuptools import build_meta; build_meta.build_{command}({str(out)!r})'
    subprocess.run([sys.executable, '-c', code], cwd=folder, check=True, capture_output=True)
    return next(out.iterdir())


@pytest.fixture(scope='module')
def wheel(source, tmp_path_factory):
    return build(source, 'wheel', tmp_path_factory.mktemp('wheel'))


def test_wheel_holds_configs_metafiles_and_programs(wheel):
    with zipfile.ZipFile(wheel) as file:
        laid = {name.removeprefix('vlm_dense/.mim/') for name in file.namelist() if '/.mim/' in name}
        names = set(file.namelist())
    configs = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').glob('*/**/*') if path.is_file()}
    assert {name for name in configs if '__pycache__' not in name} == {n for n in laid if n.startswith('configs/')}
    assert {'model-index.yml', 'tools/train.py', 'tools/dist_train.sh'} <= laid
    assert not {n for n in laid if n.startswith(('tools/benchmarks', 'tools/dev')) or '__pycache__' in n}
    assert {
        'vlm_dense/py.typed',
        'vlm_dense/clip/bundled/tiny-rn.safetensors',
        'vlm_dense/comparison/cells.py',
    } <= names
    assert not {name for name in names if name.startswith(('tests/', 'configs/', 'tools/'))}


def test_source_distribution_holds_all_that_a_wheel_is_made_of(source, wheel, tmp_path):
    with tarfile.open(build(source, 'sdist', tmp_path)) as archive:
        packed = {name.partition('/')[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if '.dist-info/' not in name]
    assert {name.removeprefix('vlm_dense/.mim/') for name in names} <= packed
    assert {'setup.py', 'pyproject.toml', 'README.md', 'LICENSE', 'MANIFEST.in'} <= packed


USE = """
from pathlib import Path
import vlm_dense
from vlm_dense import cli, libraries
from vlm_dense.engine.configs.names import CONFIGS, existing_config
assert CONFIGS == Path(vlm_dense.__file__).parent / '.mim' / 'configs', CONFIGS
for name in ('configs/denseclip_shapes.py', 'denseclip/denseclip_shapes', 'vlm_dense::denseclip/denseclip_shapes.py'):
    assert existing_config(name) == CONFIGS / 'denseclip' / 'denseclip_shapes.py'
libraries.name_packages()
from mmengine.config import Config
from mmengine.infer.infer import BaseInferencer
assert Config.fromfile('own.py').model.tau == 0.5
assert Config.fromfile('stock.py').model.type == 'EncoderDecoder'
names = BaseInferencer.list_models('vlm_dense')
assert sorted(names) == vlm_dense.list_models() and 'denseclip_shapes' in names
cli.main(['models', 'retinanet'])
"""


def test_a_wheel_is_enough(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / 'site')
    user = tmp_path / 'user'
    user.mkdir()
    (user / 'own.py').write_text("_base_ = 'vlm_dense::denseclip/denseclip_shapes.py'\nmodel = dict(tau=0.5)\n")
    (user / 'stock.py').write_text("_base_ = 'mmseg::sem_fpn/fpn_r50_4xb4-160k_ade20k-512x512.py'\n")
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path / 'site'), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run([sys.executable, '-c', USE], cwd=user, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert 'denseclip_retinanet_r50_coco' in done.stdout
    tools = tmp_path / 'site' / 'vlm_dense' / '.mim' / 'tools'  # where mim looks for train.py
    command = [sys.executable, tools / 'train.py', '--help']
    done = subprocess.run(command, cwd=user, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith('usage: python tools/train.py '), done.stderr
    shutil.rmtree(tools)  # the command needs nothing of it
    command = [sys.executable, '-m', 'vlm_dense', 'train', 'denseclip_shapes', '--help']
    done = subprocess.run(command, cwd=user, env=environment, capture_output=True, text=True)
    assert done.stdout.startswith('usage: vlm-dense train '), done.stderr


TRAIN = """
import sys
from pathlib import Path
import vlm_dense
vlm_dense.setup()
from vlm_dense.cli import train
site = Path(vlm_dense.__file__).parent
assert site.parent == Path(sys.argv[1]), site
small = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'train_dataloader.batch_size=2']
small += ['val_dataloader.dataset.num_scenes=4', 'default_hooks.checkpoint.interval=2']
epoch = ['train_cfg.max_epochs=1', 'train_dataloader.batch_size=64']  # of 128 images
lazy = site / '.mim' / 'configs' / '_lazy_'
for name in ('denseclip', 'retinanet', 'coop'):
    for config in (f'{name}.py', str(lazy / f'lazy_{name}_shapes.py')):
        options = epoch if config == 'coop.py' else small
        train.main([config, '--work-dir', Path(config).stem, '--cfg-options', *options])
"""
BY_NAME = dict(
    denseclip='denseclip/denseclip_shapes.py',
    retinanet='denseclip/denseclip_retinanet_shapes.py',
    coop='coop/coop_shapes.py',
)


@pytest.mark.long
def test_configs_by_name_and_pure_python_configs_of_a_wheel_train_in_every_task(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / 'site')
    user = tmp_path / 'user'
    user.mkdir()
    for name, base in BY_NAME.items():
        (user / f'{name}.py').write_text(f"_base_ = 'vlm_dense::{base}'\n")
    environment = {**os.environ, 'PYTHONPATH': str(tmp_path / 'site'), 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-c', TRAIN, str(tmp_path / 'site')]
    done = subprocess.run(command, cwd=user, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (
        done.stdout.count('mIoU: ') == 2 and done.stdout.count('bbox_mAP: ') == 2 and done.stdout.count('top1: ') == 2
    )
    saved = [sorted(path.name for path in (user / name).glob('*.pth')) for name in ('denseclip', 'lazy_coop_shapes')]
    assert all('iter_2.pth' in names for names in saved) and list((user / 'coop').glob('*epoch_1.pth'))


def test_a_clone_in_use_has_links_to_itself(source, monkeypatch):
    monkeypatch.chdir(source)
    code = (
        'from pathlib import Path; import setuptools; setuptools.setup = lambda **kw: None; import setup; '
        'setup.link(Path("vlm_dense/.mim").absolute())'
    )
    for _ in range(2):
        subprocess.run([sys.executable, '-c', code], check=True)
        assert (source / 'vlm_dense/.mim/configs').is_symlink()
        assert (source / 'vlm_dense/.mim/configs/coop/coop_shapes.py').samefile(source / 'configs/coop/coop_shapes.py')
    code = code.replace('import setup; ', 'import setup; Path.symlink_to = lambda *a: open(""); ')
    shutil.rmtree(source / 'vlm_dense' / '.mim')
    subprocess.run([sys.executable, '-c', code], check=True)
    assert (source / 'vlm_dense/.mim/tools/train.py').is_file()
    assert not (source / 'vlm_dense/.mim/configs').is_symlink()
