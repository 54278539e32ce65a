"""A checkpoint that is loaded into a sharded model is checked as one that is loaded into a whole one."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from engine.processes import in_processes
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn
from torch.distributed.fsdp import FullStateDictConfig, StateDictType
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from vlm_dense.engine.checkpoints.fit import CheckpointFitHook, FrozenWeightsHook
from vlm_dense.engine.runner.cpu_distributed import CPUFullyShardedDataParallel
from vlm_dense.errors import CheckpointError


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(8, 8)


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.frozen = nn.Linear(8, 8).requires_grad_(False)
        self.frozen.weight.data = torch.arange(64.0).view(8, 8)
        self.frozen.bias.data.zero_()
        self.blocks = nn.Sequential(Block(), Block())


MODELS.register_module('FSDPTestBlocks', module=Blocks)


def sharded(model: nn.Module) -> CPUFullyShardedDataParallel:
    policy = ModuleWrapPolicy({Block})
    model = CPUFullyShardedDataParallel(model, device_id=0, auto_wrap_policy=policy)
    config = FullStateDictConfig(rank0_only=True, offload_to_cpu=True)
    model.set_state_dict_type(model, StateDictType.FULL_STATE_DICT, config)
    return model


def check(rank: int) -> None:
    torch.manual_seed(0)
    whole = SimpleNamespace(model=Blocks(), cfg=Config(dict(model=dict(type='FSDPTestBlocks'))), seed=0)
    trained = dict(meta={}, state_dict=whole.model.state_dict())
    FrozenWeightsHook().before_save_checkpoint(whole, trained)
    assert set(trained['meta']['frozen_weights']) == {'frozen.weight', 'frozen.bias'}
    runner = SimpleNamespace(model=sharded(Blocks()))
    hook = CheckpointFitHook()
    hook.after_load_checkpoint(runner, copy.deepcopy(trained))
    with runner.model.summon_full_params(runner.model):
        found = {k.replace('_fsdp_wrapped_module.', ''): v for k, v in runner.model.named_parameters()}
        for key, value in whole.model.state_dict().items():
            assert torch.equal(found[key], value), key
    for change, message in (
        ({'blocks.0.linear.bias': None}, '1 missing from the checkpoint: blocks.0.linear.bias'),
        ({'foreign': torch.ones(1)}, '1 unknown to the model: foreign'),
        ({'blocks.1.linear.bias': torch.tensor([float('nan')] * 8)}, 'values of blocks.1.linear.bias are NaN'),
        ({'blocks.1.linear.weight': torch.ones(9, 8)}, 'blocks.1.linear.weight'),
    ):
        checkpoint = copy.deepcopy(trained)
        for key, value in change.items():
            checkpoint['state_dict'].pop(key, None)
            if value is not None:
                checkpoint['state_dict'][key] = value
        with pytest.raises(CheckpointError, match=message):
            hook.after_load_checkpoint(runner, checkpoint)


def test_a_sharded_model_takes_what_fits_and_refuses_what_does_not():
    in_processes(2, check)
