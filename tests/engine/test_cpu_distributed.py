from __future__ import annotations

import copy

import pytest
import torch
import torch.distributed as dist
from torch import nn

from vlm_dense.engine.runner.cpu_distributed import CPUDistributedDataParallel, CPUSyncBatchNorm


@pytest.fixture
def process_group(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize('momentum', [0.1, None])
def test_sync_batch_norm_on_the_cpu_is_batch_norm_over_all_processes(process_group, momentum):
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=momentum))
    synced = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain))
    model = CPUDistributedDataParallel(synced, device_ids=[0])
    assert isinstance(synced[1], CPUSyncBatchNorm)
    x = torch.randn(2, 3, 5, 6)
    for _ in range(2):
        expected, found = plain(x), model(x)
        torch.testing.assert_close(found, expected)
    expected.square().mean().backward()
    found.square().mean().backward()
    for a, b in zip(plain.parameters(), synced.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad)
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(synced.state_dict()[key], value)
    torch.testing.assert_close(synced.eval()(x), plain.eval()(x))
