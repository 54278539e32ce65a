"""The keys of a config that make a training quicker: ``compile``, channels last."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch
from torch import nn

from vlm_dense.engine.runner import runner
from vlm_dense.engine.runner.compilation import compile_parts
from vlm_dense.engine.runner.launch import build_runner, prepare
from vlm_dense.errors import ConfigError

CONFIG = Path(__file__).parents[2] / 'configs' / 'denseclip_shapes.py'
LOADER = {'batch_size': 2, 'num_workers': 0, 'persistent_workers': False, 'dataset.num_scenes': 4, 'dataset.size': 64}


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def trained(work_dir, iterations=2, **changes):
    """Losses and weights after some iterations of DenseCLIP."""
    options = {f'{loader}_dataloader.{key}': v for loader in ('train', 'val') for key, v in LOADER.items()}
    options |= {
        'train_cfg.max_iters': iterations,
        'train_cfg.val_interval': 100,
        'model.data_preprocessor.size': (64, 64),
        'model.context_decoder.dropout': 0.0,
        'model.decode_head.dropout_ratio': 0.0,
        'randomness.seed': 0,
        'default_hooks.checkpoint': None,
        **changes,
    }
    args = argparse.Namespace(config=str(CONFIG), work_dir=str(work_dir), launcher='none', local_rank=None)
    args.data_root, args.cfg_options = None, options
    run = build_runner(prepare(args, ('train_dataloader', 'val_dataloader')))
    losses = []
    step = type(run.model).parse_losses
    run.model.parse_losses = lambda x: losses.append({k: v.detach() for k, v in x.items()}) or step(run.model, x)
    run.train()
    return losses, run.model.state_dict(), run.model


def test_a_compiled_training_is_the_eager_one(tmp_path):
    losses, weights, _ = trained(tmp_path / 'eager')
    found, after, model = trained(tmp_path / 'compiled', compile=dict(backend='aot_eager'))
    assert hasattr(model.backbone.encode, '_torchdynamo_orig_callable')
    assert len(found) == len(losses) == 2 and set(after) == set(weights)
    torch.testing.assert_close(found[0], losses[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1], losses[1], rtol=1e-3, atol=1e-4)


def test_channels_last_is_the_same_training(tmp_path):
    losses, _, _ = trained(tmp_path / 'plain', 1)
    hook = dict(type='vlm_dense.ChannelsLastHook')
    found, _, model = trained(tmp_path / 'last', 1, custom_hooks=[hook])
    assert model.backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found[0], losses[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('options', [False, None])
def test_what_is_not_wanted_is_not_compiled(options, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, 'compile_parts', lambda *a, **k: pytest.fail('compiled'))
    trained(tmp_path, 1, compile=options)


def test_an_option_that_is_none_is_told(tmp_path):
    with pytest.raises(ConfigError, match="compile must be True, False or a dict.*'inductor'"):
        trained(tmp_path, 1, compile='inductor')


def test_a_model_without_parts_is_told():
    with pytest.raises(ConfigError, match='Sequential has no CLIP tower'):
        compile_parts(nn.Sequential(nn.Linear(2, 2)))
