"""The classification configs for drawn scenes, made small, run by the programs as users run them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from vlm_dense.cli import test as test_tool
from vlm_dense.cli import train as train_tool
from vlm_dense.engine.configs.names import find_config

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / 'tools'


SMALL = [
    'train_dataloader.dataset.shots=4',
    'train_dataloader.dataset.dataset.num_scenes=200',
    'val_dataloader.dataset.shots=1',
    'val_dataloader.dataset.dataset.num_scenes=60',
    'test_dataloader.dataset.num_scenes=60',
    'train_cfg.max_epochs=4',
    'train_cfg.val_interval=2',
    'default_hooks.checkpoint.interval=2',
]
KILL = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class KillHook(Hook):
    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == {after}:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_test_iter(self, runner, batch_idx, *args, **kwargs):
        if batch_idx + 1 == {after}:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def config_of(name: str) -> Path:
    """The config of a method for drawn scenes."""
    return find_config(ROOT / 'configs' / f'{name}_shapes.py')


def train(work_dir: Path, *options: str, config: str = 'coop', resume=(), small=SMALL) -> Path:
    """``tools/train.py`` in this process; returns ``work_dir``."""
    path = config_of(config)
    train_tool.main([str(path), '--work-dir', str(work_dir), *resume, '--cfg-options', *small, *options])
    return work_dir


def evaluate(work_dir: Path, *options: str, config: str, more=()) -> dict:
    """``tools/test.py`` in this process, ``more`` are a checkpoint and options; returns the metrics."""
    path = config_of(config)
    return test_tool.main([str(path), *more, '--work-dir', str(work_dir), '--cfg-options', *options])


def weights(path: Path) -> dict:
    """State dict of a checkpoint."""
    return torch.load(path, weights_only=False)['state_dict']


def _environment(*folders: Path) -> dict:
    path = os.pathsep.join([*map(str, folders), str(ROOT), str(TOOLS), os.environ.get('PYTHONPATH', '')])
    return dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1')  # as in this process: sums round by threads


def killed(program: str, folder: Path, work_dir: Path, *options: str, config: str, after: int) -> None:
    """Run a program in a process of its own that is killed (signal 9) after so many iterations."""
    (folder / 'kill_hook.py').write_text(KILL.format(after=after))
    path = folder / f'{config}_killed.py'
    path.write_text(
        f'_base_ = {str(config_of(config))!r}\n'
        'custom_imports = dict(imports=["kill_hook"])\n'
        'default_hooks = dict(kill=dict(type="KillHook", priority="LOWEST"))\n'
    )
    command = [sys.executable, str(TOOLS / f'{program}.py'), str(path), '--work-dir', str(work_dir), '--cfg-options']
    done = subprocess.run([*command, *options], env=_environment(folder), capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]


def two_processes(*runs: tuple[Path, Path]) -> None:
    """Train each (config, work dir) with two processes, one run after the other."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', f'--master_port={port}', __file__]
    arguments = [str(path) for run in runs for path in run]
    done = subprocess.run([*command, *arguments], env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


if __name__ == '__main__':
    for config, folder in zip(sys.argv[1::2], sys.argv[2::2], strict=True):
        train_tool.main([config, '--work-dir', folder, '--launcher', 'pytorch'])
