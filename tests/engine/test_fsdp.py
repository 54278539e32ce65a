"""A checkpoint that is loaded into a sharded model is checked as one that is loaded into a whole one."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from engine.processes import in_processes
from mmengine.config import Config
from mmengine.registry import MODELS
from tiny_towers import vit
from torch import nn
from torch.distributed.fsdp import FullStateDictConfig, StateDictType
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from vlm_dense.clip.blocks import Block as TowerBlock
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


PROMPTS = dict(
    vpt=dict(type='vlm_dense.VPTPrompt', num_tokens=3, depth=4), lora=dict(type='vlm_dense.LoRA', rank=2, dropout=0.0)
)


def prompted(prompt: str) -> nn.Module:
    """A frozen tower with a prompt that is not 0."""
    torch.manual_seed(0)
    arch = vit(embed_dim=16, text=dict(layers=1), image_size=32, patch_size=16, layers=4)
    cfg = dict(type='vlm_dense.CLIPViT', arch=arch, frozen=True, image_prompt=PROMPTS[prompt])
    tower = MODELS.build(cfg).train()
    for part in tower.image_prompt.parameters():
        part.data.normal_(std=0.05)
    return tower


def stepped(model: nn.Module, images: torch.Tensor) -> list[float]:
    """Losses of three steps of the prompt."""
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    found = []
    for _ in range(3):
        loss = sum(stage.square().mean() for stage in model(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    return found


def train_sharded(rank: int, prompt: str) -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    alone = prompted(prompt)
    whole = stepped(alone, images)
    policy = ModuleWrapPolicy({TowerBlock})
    model = CPUFullyShardedDataParallel(prompted(prompt), device_id=0, auto_wrap_policy=policy, use_orig_params=True)
    assert sum(type(m).__name__.endswith('FullyShardedDataParallel') for m in model.modules()) == 5
    mine = torch.tensor(stepped(model, images[2 * rank : 2 * rank + 2]))
    torch.distributed.all_reduce(mine)
    torch.testing.assert_close(mine / 2, torch.tensor(whole), rtol=1e-4, atol=1e-5)
    assert whole[2] < whole[0] * 0.999
    with model.summon_full_params(model):
        for own, sharded in zip(alone.image_prompt.parameters(), model.module.image_prompt.parameters(), strict=True):
            torch.testing.assert_close(sharded, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('prompt', PROMPTS)
def test_a_frozen_tower_sharded_by_block_trains_its_prompt_as_one_process_does(prompt):
    in_processes(2, train_sharded, prompt)
