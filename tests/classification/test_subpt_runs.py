"""SubPT as a user runs it: three stages, killed and resumed bit for bit, and two processes that equal one."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
import torch
from classification.small_runs import KILL, ROOT, TOOLS, _environment, train_tool, two_processes, weights
from engine.toy import scalars

EARLY, EPOCHS = 3, 4
SMALL = f"""
_base_ = {str(ROOT / 'configs/subpt/subpt_shapes.py')!r}
early, epochs, lr = {EARLY}, {EPOCHS}, 0.002
train_dataloader = dict(batch_size={{batch}}, dataset=dict(shots=2, dataset=dict(num_scenes=100)))
val_dataloader = val_cfg = val_evaluator = None
train_cfg = dict(max_epochs={EARLY + EPOCHS})
param_scheduler = [
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=0, end=2),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=1, end=early),
    dict(type='ConstantLR', factor=1e-5 / lr, by_epoch=True, begin=early, end=early + 2),
    dict(type='CosineAnnealingLR', T_max=epochs, by_epoch=True, begin=early + 1, end=early + epochs),
]
default_hooks = dict(
    subspace=dict(early=early, rank=2), checkpoint=dict(interval=1, max_keep_ckpts=-1), logger=dict(interval=1)
)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend')], name='{{name}}')
custom_hooks = [
    dict(type=f'vlm_dense.{{{{name}}}}')
    for name in ('SeedIterationHook', 'AverageLossesHook', 'CheckpointFitHook', 'FrozenWeightsHook')
]
"""


def config(folder, name: str, batch: int = 8, more: str = '') -> str:
    path = folder / f'{name}.py'
    path.write_text(SMALL.format(batch=batch, name=f'subpt-{name}') + more)
    return str(path)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp('subpt')
    train_tool.main([config(folder, 'whole'), '--work-dir', str(folder / 'whole')])
    return folder / 'whole'


def vectors(path) -> torch.Tensor:
    return weights(path)['text_prompt.ctx']


def test_the_stages_follow_each_other(whole):
    points = [vectors(whole / f'epoch_{epoch}.pth') for epoch in range(1, EARLY)]
    assert torch.equal(vectors(whole / f'epoch_{EARLY}.pth'), points[0])  # begins again from the first point
    saved = torch.load(whole / f'epoch_{EARLY}.pth', weights_only=False)
    subspace, momentum = saved['subpt']['subspace'], saved['optimizer']['state']
    assert subspace.shape == (2, points[0].numel()) and not momentum
    torch.testing.assert_close(subspace @ subspace.T, torch.eye(2), rtol=0, atol=1e-5)
    rows = [row for row in scalars(whole) if 'lr' in row]
    steps = len(rows) // (EARLY + EPOCHS)
    rates = [row['lr'] for row in rows[::steps]]
    cosine = [0.001 * (1 + math.cos(math.pi * e / EPOCHS)) for e in range(EPOCHS)]
    assert rates == pytest.approx([1e-5, *cosine[: EARLY - 1], 1e-5, *cosine[: EPOCHS - 1]])
    assert all('prompt.loss_nfl' in row for row in rows)  # the trajectory is that of CoOp with the loss


def test_without_weight_decay_the_last_stage_stays_in_the_subspace(whole, tmp_path):
    path = config(tmp_path, 'free', more='\noptim_wrapper = dict(optimizer=dict(weight_decay=0.0))\n')
    train_tool.main([path, '--work-dir', str(tmp_path / 'free')])
    first, last = (vectors(tmp_path / 'free' / f'epoch_{epoch}.pth') for epoch in (EARLY, EARLY + EPOCHS))
    subspace = torch.load(tmp_path / 'free' / f'epoch_{EARLY}.pth', weights_only=False)['subpt']['subspace']
    moved = (last - first).flatten()
    assert moved.norm() > 1e-4
    torch.testing.assert_close(subspace.T @ (subspace @ moved), moved, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize('after', [3, 11])  # in the first stage, in the last
def test_a_killed_training_goes_on_bit_for_bit(whole, tmp_path, after):
    (tmp_path / 'kill_hook.py').write_text(KILL.format(after=after))
    more = 'custom_imports = dict(imports=["kill_hook"])\n'
    more += 'default_hooks["kill"] = dict(type="KillHook", priority="LOWEST")\n'
    path = config(tmp_path, 'killed', more=more)
    command = [sys.executable, str(TOOLS / 'train.py'), path, '--work-dir', str(tmp_path / 'killed')]
    done = subprocess.run(command, env=_environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == -9, done.stderr[-2000:]
    last = f'epoch_{EARLY + EPOCHS}.pth'
    assert not (tmp_path / 'killed' / last).exists()
    train_tool.main([config(tmp_path, 'again'), '--work-dir', str(tmp_path / 'killed'), '--resume'])
    assert torch.equal(vectors(tmp_path / 'killed' / last), vectors(whole / last))


def test_two_processes_give_the_vectors_of_one(whole, tmp_path):
    two_processes((config(tmp_path, 'two', batch=4), tmp_path / 'two'))
    last = f'epoch_{EARLY + EPOCHS}.pth'
    one, two = (torch.load(folder / last, weights_only=False) for folder in (whole, tmp_path / 'two'))
    torch.testing.assert_close(two['state_dict'], one['state_dict'], rtol=1e-4, atol=1e-5)
    spans = [saved['subpt']['subspace'].T @ saved['subpt']['subspace'] for saved in (one, two)]
    torch.testing.assert_close(*spans, rtol=0, atol=1e-3)
