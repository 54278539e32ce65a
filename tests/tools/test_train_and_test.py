"""The programs on a toy: what a user types, what a user reads."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from engine.processes import forked
from engine.toy import scalars, write_config, write_data
from mmengine.config import Config
from PIL import Image

from vlm_dense.cli import model_info, print_config
from vlm_dense.cli import test as test_tool
from vlm_dense.cli import train as train_tool
from vlm_dense.engine.runner.launch import load_config
from vlm_dense.inference.counts import count_flops

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """Config and work dir of an uninterrupted run, data in two workers."""
    folder = tmp_path_factory.mktemp('trained')
    config = write_config(folder, data, 'train_dataloader.update(num_workers=2, persistent_workers=True)', 'trained')
    train_tool.main([config, '--work-dir', str(folder / 'work')])
    return config, folder / 'work'


def complaint(capsys, main, *argv) -> str:
    """The one message of a program that refuses."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in argv])
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert 'Traceback' not in message
    return message.strip().splitlines()[-1] if 'Error: ' not in message else message[message.index('Error: ') + 7 :]


def test_training_saves_checkpoints_and_images(trained):
    _, work_dir = trained
    assert {p.name for p in work_dir.glob('*.pth')} == {'iter_9.pth', 'iter_12.pth'}
    assert {p.name for p in (work_dir / 'vis').glob('*.png')} == {'iter_6.png', 'iter_12.png'}
    losses = [row['loss'] for row in scalars(work_dir) if 'loss' in row]
    assert len(losses) == 12 and len(set(losses)) == 12


def test_a_quiet_test_prints_its_metrics_and_writes_them_as_json(trained, tmp_path):
    config, work_dir = trained
    words = [config, str(work_dir / 'iter_12.pth'), '--work-dir', str(tmp_path / 'work')]
    command = [sys.executable, str(TOOLS / 'test.py'), *words, '-q', '--json', str(tmp_path / 'metrics.json')]
    environment = {**os.environ, 'PYTHONPATH': str(TOOLS.parent), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert metrics and done.stdout.splitlines()[-len(metrics) :] == [f'{k}: {v:.4f}' for k, v in metrics.items()]
    assert ' INFO ' not in done.stdout
    (log,) = (tmp_path / 'work').glob('*/*.log')
    assert ' INFO ' in log.read_text()


def test_a_quiet_training_prints_its_last_validation(trained, tmp_path, capsys):
    config, whole = trained
    train_tool.main([config, '--work-dir', str(tmp_path), '-q'])
    printed = capsys.readouterr().out.strip().splitlines()
    (expected,) = [row['mIoU'] for row in scalars(whole) if 'mIoU' in row][-1:]
    assert f'mIoU: {expected:.4f}' in printed and not any(' INFO ' in line for line in printed)


def test_a_killed_run_resumes_bit_for_bit(trained, tmp_path, monkeypatch):
    config, whole = trained
    text = Path(config).read_text() + (
        '\ncustom_imports = dict(imports=["kill_hook"])\ndefault_hooks["kill"] = dict(type="KillHook")\n'
    )
    (tmp_path / 'killed.py').write_text(text)
    (tmp_path / 'kill_hook.py').write_text(
        'import os, signal\nfrom mmengine.hooks import Hook\nfrom mmengine.registry import HOOKS\n'
        '@HOOKS.register_module()\nclass KillHook(Hook):\n    def after_train_iter(self, runner, *args, **kwargs):\n'
        '        if runner.iter == 6:\n            os.kill(os.getpid(), signal.SIGKILL)\n'
    )
    work_dir = tmp_path / 'work'
    monkeypatch.syspath_prepend(tmp_path)
    process = forked(train_tool.main, [str(tmp_path / 'killed.py'), '--work-dir', str(work_dir)])
    process.join()
    assert process.exitcode == -9
    assert (work_dir / 'last_checkpoint').read_text().endswith('iter_6.pth')
    for log in work_dir.glob('20*'):  # named by the second in which a run starts: both runs may start in one
        log.rename(tmp_path / f'killed-{log.name}')
    (tmp_path / 'resumed.py').write_text(Path(config).read_text().replace("'trained'", "'resumed'"))
    train_tool.main([str(tmp_path / 'resumed.py'), '--work-dir', str(work_dir), '--resume'])
    resumed = scalars(work_dir)
    assert resumed[0]['iter'] == 7 and resumed == scalars(whole)[-len(resumed) :]


def test_two_processes_give_the_curve_of_one(data, tmp_path):
    change = 'model["decode_head"]["dropout_ratio"] = 0\nval_cfg = val_dataloader = val_evaluator = None\n'
    change += 'train_cfg["max_iters"] = 8\n'
    one = write_config(tmp_path, data, change, 'one')
    train_tool.main([one, '--work-dir', str(tmp_path / 'one')])
    two = write_config(tmp_path, data, change + 'train_dataloader["batch_size"] = 2\n', 'two')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    env = dict(os.environ, PYTHON=sys.executable, PORT=str(port), OMP_NUM_THREADS='1', PYTHONPATH=str(TOOLS.parent))
    command = ['bash', str(TOOLS / 'dist_train.sh'), two, '2', '--work-dir', str(tmp_path / 'two')]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    curves = [[row['loss'] for row in scalars(tmp_path / name)] for name in ('one', 'two')]
    assert len(curves[0]) == 8 and curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_testing_gives_the_metrics_of_validation_and_keeps_predictions(trained, tmp_path):
    config, work_dir = trained
    config = write_config(tmp_path, Config.fromfile(config).data_root, name='tested')
    show, out = tmp_path / 'show', tmp_path / 'out'
    metrics = test_tool.main(
        [
            config,
            str(work_dir / 'iter_12.pth'),
            '--work-dir',
            str(tmp_path / 'work'),
            '--show-dir',
            str(show),
            '--out',
            str(out),
        ]
    )
    assert metrics['mIoU'] == pytest.approx(scalars(work_dir)[-1]['mIoU'])
    assert len(list(show.glob('*.png'))) == 4
    assert Image.open(out / '0.png').size == (48, 40)


def test_test_time_augmentation(trained, data, tmp_path):
    config = write_config(tmp_path, data, name='tta')
    metrics = test_tool.main(
        [
            config,
            str(trained[1] / 'iter_12.pth'),
            '--tta',
            '--work-dir',
            str(tmp_path / 'work'),
            '--out',
            str(tmp_path / 'all.pkl'),
        ]
    )
    assert metrics['mIoU'] >= 0 and (tmp_path / 'all.pkl').stat().st_size


def test_random_weights_are_not_tested(capsys, data, tmp_path):
    message = complaint(capsys, test_tool.main, write_config(tmp_path, data, name='untrained'), '--work-dir', tmp_path)
    assert 'name a checkpoint to test as second argument' in message


def test_a_strategy_runs_the_flexible_runner(data, tmp_path):
    change = 'strategy = dict(type="SingleDeviceStrategy")\ntrain_cfg["max_iters"] = 3\n'
    config = write_config(tmp_path, data, change, 'flexible')
    train_tool.main([config, '--work-dir', str(tmp_path / 'work')])
    assert torch.load(tmp_path / 'work' / 'iter_3.pth', weights_only=False)['meta']['iter'] == 3


def test_what_is_missing_from_the_data_is_said_in_one_message(capsys, data, tmp_path):
    config = write_config(tmp_path, data, name='lost')
    message = complaint(capsys, train_tool.main, config, '--work-dir', tmp_path, '--data-root', tmp_path / 'nowhere')
    assert message.startswith('The data of BaseSegDataset are not there') and '--data-root DIR' in message
    assert not list(tmp_path.glob('2*'))  # no run was begun


def test_data_root_moves_every_data_set(data, tmp_path):
    config = write_config(tmp_path, tmp_path / 'nowhere', name='moved')
    cfg = load_config(config, dict(data_root=str(data)))
    roots = [cfg[f'{k}_dataloader'].dataset.data_root for k in ('train', 'val', 'test')]
    assert roots == [str(data)] * 3


@pytest.mark.parametrize(
    ('option', 'expected'),
    [
        ('model.backbone.type=ResNett', "'ResNett' is not in the model registry of mmseg. Did you mean 'ResNet'"),
        ('model.backbone.type=vlm_dense.CLIPResNett', "Did you mean 'CLIPResNet'"),
        ('train_dataloader.dataset.type=BaseSegDatset', "Did you mean 'BaseSegDataset'"),
        ('model.decode_head.num_classes=19', 'The data set has 3 classes (sky, road, car, ...), but model.decode_head'),
        ('train_dataloader.dataset.img_suffix=.jpg', 'train_dataloader.dataset is empty: no .jpg image'),
    ],
)
def test_a_config_that_cannot_work_is_explained(capsys, data, tmp_path, option, expected):
    config = write_config(tmp_path, data, name=f'wrong_{abs(hash(option))}')
    assert expected in complaint(capsys, train_tool.main, config, '--work-dir', tmp_path, '--cfg-options', option)


def test_an_absent_config_is_named_with_its_neighbours(capsys, data, tmp_path):
    write_config(tmp_path, data)
    message = complaint(capsys, train_tool.main, tmp_path / 'toi.py')
    assert 'toi.py does not exist' in message and 'there are: toy.py' in message


def test_amp_without_gpu_is_refused(capsys, data, tmp_path):
    if torch.cuda.is_available():
        pytest.skip('there is a GPU')
    assert '--amp needs a GPU' in complaint(
        capsys, train_tool.main, write_config(tmp_path, data), '--amp', '--work-dir', tmp_path
    )


@pytest.mark.parametrize('option', ['--load-from', '--resume', 'test'])
def test_a_damaged_checkpoint_is_refused(capsys, trained, data, tmp_path, option):
    config = write_config(tmp_path, data, name=f'damaged_{option.strip("-")}')
    cut = tmp_path / 'cut.pth'
    cut.write_bytes((trained[1] / 'iter_9.pth').read_bytes()[:5000])
    main, argv = (test_tool.main, [cut]) if option == 'test' else (train_tool.main, [option, cut])
    message = complaint(capsys, main, config, *argv, '--work-dir', tmp_path / 'work')
    assert 'cut.pth (5,000 bytes) cannot be read' in message


def test_a_foreign_checkpoint_is_refused(capsys, data, tmp_path):
    config = write_config(tmp_path, data, name='foreign')
    torch.save({'layer.weight': torch.zeros(3)}, tmp_path / 'foreign.pth')
    message = complaint(
        capsys, train_tool.main, config, '--load-from', tmp_path / 'foreign.pth', '--work-dir', tmp_path / 'work'
    )
    assert '1 unknown to the model: layer.weight' in message and 'missing from the checkpoint: backbone' in message


def test_resuming_where_nothing_was_saved_begins(data, tmp_path):
    change = 'train_cfg["max_iters"] = 1\nval_cfg = val_dataloader = val_evaluator = None\n'
    config = write_config(tmp_path, data, change, 'fresh')
    train_tool.main([config, '--work-dir', str(tmp_path / 'work'), '--resume'])
    assert scalars(tmp_path / 'work')[0]['iter'] == 1


def test_an_invalid_loss_stops_the_run_and_leaves_the_last_good_checkpoint(capsys, data, tmp_path):
    change = 'optim_wrapper["optimizer"]["lr"] = 1e12\ndefault_hooks["checkpoint"]["interval"] = 1\n'
    config = write_config(tmp_path, data, change, 'diverging')
    work_dir = tmp_path / 'work'
    message = complaint(capsys, train_tool.main, config, '--work-dir', work_dir)
    assert 'Training stops. The last good checkpoint is' in message
    last = (work_dir / 'last_checkpoint').read_text()
    assert last in message
    weights = torch.load(last, weights_only=False)['state_dict']
    assert all(w.isfinite().all() for k, w in weights.items() if k.endswith(('weight', 'bias')))
    assert all(math.isfinite(row['loss']) for row in scalars(work_dir))


@pytest.mark.parametrize('workers', [0, 1])
def test_a_wrong_mask_is_named_from_any_process(capsys, tmp_path, workers):
    data = write_data(tmp_path / 'data', train=4, val=1)
    mask = Image.open(data / 'masks' / 'train' / '2.png').point(lambda v: 9 if v else v)
    mask.save(data / 'masks' / 'train' / '2.png')
    config = write_config(tmp_path, data, f'train_dataloader["num_workers"] = {workers}', f'mask{workers}')
    message = complaint(capsys, train_tool.main, config, '--work-dir', tmp_path / 'work')
    assert message.startswith('Mask ') and 'masks/train/2.png holds the label 9' in message


def test_configs_are_printed_whole(capsys, data, tmp_path):
    print_config.main([write_config(tmp_path, data), '--cfg-options', 'train_cfg.max_iters=77'])
    printed = capsys.readouterr().out
    assert 'max_iters=77' in printed and 'vlm_dense.SeedIterationHook' in printed


def test_parameters_and_operations_are_counted_without_data_or_weights(capsys, tmp_path):
    change = 'model["backbone"].update(frozen_stages=1, init_cfg=dict(type="Pretrained", checkpoint="absent.pth"))\n'
    config = write_config(tmp_path, tmp_path / 'nowhere', change)
    model_info.main([config, '--shape', '64', '96'])
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    total, trained, frozen = (int(n.replace(',', '')) for n in rows['total'])
    assert total == trained + frozen == 47119 and frozen > 0
    assert rows['decode_head'][2] == '0'


def test_operations_of_a_convolution():
    class Model(torch.nn.Conv2d):
        def forward(self, x, mode):
            return super().forward(x)

    assert count_flops(Model(3, 5, 3, padding=1), 10, 20) == 2 * 3 * 5 * 9 * 10 * 20
