"""Two and three processes measure what one does, where the number of samples does not divide, trained or not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine.toy import write_config, write_data
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
FEW_SHOT = {
    f'default_hooks.prepare.data.{name}.dataset.dataset.{key}': value
    for name in ('support', 'search')
    for key, value in {'shots': 2, 'dataset.num_scenes': 80}.items()
}
RUNS = {
    'mIoU': ('toy', {}),
    'top1': ('zero_shot_shapes', {'test_dataloader.dataset.num_scenes': 31, 'test_dataloader.batch_size': 4}),
    'cached': (
        'tip_adapter_shapes',
        {'test_dataloader.dataset.dataset.num_scenes': 31, 'test_dataloader.batch_size': 4, 'model.head.shots': 2}
        | FEW_SHOT,
    ),
    'tuned': (
        'tpt_shapes',
        {
            'test_dataloader.dataset.num_scenes': 7,
            'test_dataloader.dataset.pipeline.1.num_views': 4,
            'model.test_time.selection': 0.5,
        },
    ),
    'stream': ('tda_shapes', {'test_dataloader.dataset.num_scenes': 31, 'test_dataloader.batch_size': 4}),
    'masks': ('maskclip_tiny-vit_shapes', {'test_dataloader.dataset.num_scenes': 7}),
    'AP': (
        'denseclip/denseclip_retinanet_shapes',
        {
            'test_dataloader.dataset.indices': 7,
            'test_dataloader.batch_size': 2,
            'test_evaluator.metric': '[bbox,proposal]',
            'model.test_cfg.score_thr': 0,
        },
    ),
    'mAP': ('dualcoop_shapes', {'test_dataloader.dataset.num_scenes': 31, 'test_dataloader.batch_size': 4}),
}
"""Name -> config and what changes in it."""


def measure(folder: Path, launcher: str) -> dict[str, dict[str, float]]:
    """Metrics of all runs, by the test program."""
    import vlm_dense

    vlm_dense.setup()
    from vlm_dense.cli import test as test_tool

    torch.set_num_threads(1)
    found = {}
    for name, (config, changes) in RUNS.items():
        path = folder / 'toy.py' if config == 'toy' else CONFIGS / f'{config}.py'
        checkpoint = [str(folder / f'{name}.pth')] if name in ('mIoU', 'AP', 'mAP') else []
        work_dir = str(folder / f'{os.environ.get("WORLD_SIZE", 1)}_{name}')
        options = [f'{key}={value}' for key, value in changes.items()]
        options += ['test_dataloader.num_workers=0', 'test_dataloader.persistent_workers=False']
        arguments = [str(path), *checkpoint, '--work-dir', work_dir, '--launcher', launcher, '--cfg-options', *options]
        metrics = test_tool.main(arguments)
        found[name] = {key: float(value) for key, value in metrics.items()}
    return found


def save_random_weights(folder: Path) -> None:
    """Checkpoints of the models that are trained, so that there is something to test."""
    from vlm_dense.engine.configs.names import find_config
    from vlm_dense.engine.runner.launch import fill_class_names, load_config

    for name in ('mIoU', 'AP', 'mAP'):
        path = folder / 'toy.py' if name == 'mIoU' else find_config(CONFIGS / f'{RUNS[name][0]}.py')
        cfg: Config = load_config(str(path))
        init_default_scope(cfg.default_scope)
        fill_class_names(cfg)
        torch.manual_seed(0)
        model = MODELS.build(cfg.model)
        torch.save(dict(meta={}, state_dict=model.state_dict()), folder / f'{name}.pth')


@pytest.fixture(scope='module')
def measured(tmp_path_factory):
    """Number of processes -> run -> metrics."""
    folder = tmp_path_factory.mktemp('processes')
    write_config(folder, write_data(folder / 'data', val=5))
    save_random_weights(folder)
    path = os.pathsep.join([str(ROOT), str(ROOT / 'tests'), os.environ.get('PYTHONPATH', '')])
    found = {}
    for count in (1, 2, 3):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = free.getsockname()[1]
        command = [sys.executable, '-m', 'torch.distributed.run', f'--nproc_per_node={count}', f'--master_port={port}']
        done = subprocess.run(
            [*command, __file__, str(folder)],
            env=dict(os.environ, PYTHONPATH=path, OMP_NUM_THREADS='1'),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[count] = json.loads((folder / f'{count}.json').read_text())
    return found


@pytest.mark.parametrize('name', RUNS)
@pytest.mark.parametrize('count', [2, 3])
def test_several_processes_measure_what_one_does(measured, name, count):
    one, several = measured[1][name], measured[count][name]
    metrics = {key for key in one if 'time' not in key}
    assert metrics and metrics <= set(several)
    for key in metrics:
        assert several[key] == pytest.approx(one[key], abs=1e-3, nan_ok=True), key


if __name__ == '__main__':
    folder = Path(sys.argv[1])
    metrics = measure(folder, 'pytorch')
    if os.environ['RANK'] == '0':
        (folder / f'{os.environ["WORLD_SIZE"]}.json').write_text(json.dumps(metrics))
