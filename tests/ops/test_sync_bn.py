"""mmcv's MMSyncBN in one process and in two, against torch's batch norm on the whole batch."""

from __future__ import annotations

import copy

import pytest
import torch
from engine.processes import in_processes

from vlm_dense.ops import is_stand_in  # before mmcv.ops

# isort: split
from mmcv.ops import SyncBatchNorm

pytestmark = pytest.mark.skipif(not is_stand_in(), reason='mmcv has its compiled kernels')


def data(shape=(4, 3, 5, 6)):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator) * 2 + 1, torch.randn(shape, generator=generator)


def plain(dtype=torch.float32):
    x, grad = data()
    x = x.to(dtype).float().requires_grad_()
    layer = torch.nn.BatchNorm2d(3, momentum=0.3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, -1, 2]))
        layer.bias.copy_(torch.tensor([0.1, 0.2, -0.3]))
    start = copy.deepcopy(layer.state_dict())
    for _ in range(2):
        y = layer(x)
    y.backward(grad.to(dtype).float())
    return start, layer, x, y


def synced(rank, count, dtype=torch.float32, counts=None, **settings):
    """The layer, its part of the input and of the output after two steps; ``counts``: samples of each process."""
    x, grad = data()
    counts = counts or [len(x) // count] * count
    x, grad = (values.split(counts)[rank].to(dtype) for values in (x, grad))
    layer = SyncBatchNorm(3, momentum=0.3, **settings)
    layer.load_state_dict(plain()[0])
    x.requires_grad_()
    for _ in range(2):
        y = layer(x)
    y.backward(grad)
    return layer, x, y, counts


@pytest.mark.parametrize('dtype, tolerance', [(torch.float32, 1e-5), (torch.float16, 2e-3)])
def test_one_process_is_batch_norm(tmp_path, dtype, tolerance):
    close = lambda a, b: torch.testing.assert_close(a.float(), b, rtol=tolerance, atol=tolerance)  # noqa: E731
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        layer, x, y, _ = synced(0, 1, dtype)
    finally:
        torch.distributed.destroy_process_group()
    _, expected, whole, output = plain(dtype)
    assert y.dtype == x.grad.dtype == dtype
    close(y, output)
    close(x.grad, whole.grad)
    close(layer.weight.grad, expected.weight.grad)
    close(layer.bias.grad, expected.bias.grad)
    close(layer.running_mean, expected.running_mean)
    close(layer.running_var, expected.running_var)
    close(layer.eval()(x.float()), expected.eval()(whole))


def check_a_part(rank, counts, mode):
    layer, x, y, counts = synced(rank, 2, counts=counts, stats_mode=mode)
    _, expected, whole, output = plain()
    torch.testing.assert_close(y, output.split(counts)[rank], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.running_mean, expected.running_mean, rtol=1e-5, atol=1e-5)
    for ours, theirs in ((layer.weight, expected.weight), (layer.bias, expected.bias)):
        torch.testing.assert_close(ours.grad, theirs.grad / 2, rtol=1e-5, atol=1e-5)  # DDP's mean over processes
    if 0 in counts:
        return  # mmcv takes each process to have as many values: the gradient of the input is not that of the whole
    torch.testing.assert_close(x.grad, whole.grad.split(counts)[rank], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.running_var, expected.running_var, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('counts, mode', [((2, 2), 'default'), ((2, 2), 'N'), ((4, 0), 'N')])
def test_two_processes_are_batch_norm_on_all_samples(counts, mode):
    in_processes(2, check_a_part, list(counts), mode)


def test_a_layer_without_running_figures(tmp_path):
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        layer = SyncBatchNorm(3, affine=False, track_running_stats=False)
        found = layer(data()[0])
    finally:
        torch.distributed.destroy_process_group()
    expected = torch.nn.functional.batch_norm(data()[0], None, None, training=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
