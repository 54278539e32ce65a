"""Two processes over gloo that shard the weights of each block compute the losses of one process."""

from __future__ import annotations

import json
import subprocess
import sys

import families
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

from vlm_dense.clip.blocks import TransformerBlock
from vlm_dense.clip.tower import CLIPTower

_CODE = """
import json, sys
import torch
import torch.distributed as dist
from mmengine.model import MMFullyShardedDataParallel
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.fsdp.wrap import ModuleWrapPolicy
from torch.nn import functional as F
from vlm_dense.clip.blocks import Block
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.clip.vit import CLIPViT

store, rank = sys.argv[1], int(sys.argv[2])
TEXT = dict(context_length=12, vocab_size=64, width=32, heads=2, layers=2)
VISION = dict(image_size=16, patch_size=8, width=32, layers=3, head_width=16)
ARCH = dict(embed_dim=16, quick_gelu=True, vision_cfg=VISION, text_cfg=TEXT)


class Model(torch.nn.Module):
    def __init__(self, with_cp):
        super().__init__()
        self.image = CLIPViT(ARCH, head=True, with_cp=with_cp, out_indices=[2])
        self.text = TextTower(ARCH, frozen=False, chunk_size=4 if with_cp else 128)
        self.context = torch.nn.Parameter(torch.randn(2, 32) * 0.1)

    def forward(self, images, ids, labels):
        eot = ids.argmax(-1)
        prefix = torch.cat([self.text.embed(ids[:1, :1])[0], self.context])
        text = self.text.encode(self.text.embed(ids[:, 1:]), eot - 1, prefix=prefix)
        features = self.image.encode(images, ['global', 'value'])
        features = features.global_ + features.value.mean((2, 3))
        return F.cross_entropy(5 * F.normalize(features, dim=-1) @ F.normalize(text, dim=-1).T, labels)


def shard_as_mmengine(model):
    model = MMFullyShardedDataParallel(
        model, device_id=torch.device('cpu'), auto_wrap_policy=ModuleWrapPolicy({Block}))
    assert sum('FullyShardedDataParallel' in type(m).__name__ for m in model.modules()) == 6
    return model


def shard_fully(model):
    mesh = init_device_mesh('cpu', (2,))
    for block in [m for m in model.modules() if isinstance(m, Block)]:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def five_losses(shard, with_cp):
    torch.manual_seed(0)
    model = Model(with_cp)
    images, labels = torch.randn(4, 3, 16, 24), torch.tensor([0, 1, 2, 3])
    ids = torch.randint(1, 60, (5, 6))
    ids[:, 4] = 63
    ids[1, 2] = 63
    rows = slice(None)
    if shard is not None:
        model, rows = shard(model), slice(2 * rank, 2 * rank + 2)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    found = []
    for _ in range(5):
        loss = model(images[rows], ids, labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        mean = loss.detach().clone()
        if shard is not None:
            dist.all_reduce(mean)
            mean /= 2
        found.append(mean.item())
    return found


dist.init_process_group('gloo', init_method='file://' + store, rank=rank, world_size=2)
ways = dict(alone=None, mmengine=shard_as_mmengine, fully_shard=shard_fully)
print(json.dumps([{name: five_losses(shard, with_cp) for name, shard in ways.items()} for with_cp in (False, True)]))
"""


def test_sharding_each_block_gives_the_losses_of_one_process(tmp_path):
    """With mmengine's wrapper and with torch's ``fully_shard``, without and with recomputed activations."""
    ranks = [
        subprocess.Popen(
            [sys.executable, '-c', _CODE, str(tmp_path / 'store'), str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    done = [process.communicate(timeout=600) for process in ranks]
    assert all(process.returncode == 0 for process in ranks), ''.join(stderr[-3000:] for _, stderr in done)
    for losses in json.loads(done[0][0].splitlines()[-1]):
        assert len(losses['alone']) == 5 and losses['alone'][-1] < losses['alone'][0]
        assert losses['mmengine'] == pytest.approx(losses['alone'], rel=1e-5)
        assert losses['fully_shard'] == pytest.approx(losses['alone'], rel=1e-5)


class Encoded(nn.Module):
    """A task that asks a tower for features, as those of the package do."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower

    def forward(self, images):
        found = self.tower.encode(images, ('global', 'dense', 'value', 'stages'))
        return sum(part.square().mean() for part in (found.global_, found.dense, found.value, *found.stages))


@pytest.fixture
def alone(tmp_path):
    dist.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ('family', 'with_cp'),
    [('siglip', False), ('pe', True), ('eva02_post', 'light'), ('vitamin', False), ('convnext', True)],
)
def test_each_block_of_a_timm_tower_can_be_sharded(family, with_cp, alone, monkeypatch):
    torch.manual_seed(0)
    options = dict(arch=families.small(family, monkeypatch), with_cp=with_cp)
    if family == 'pe':  # a part that runs the last block itself
        options.update(dense_attention=dict(type='vlm_dense.ClearCLIPAttention'))
    plain = CLIPTower(**options)
    sharded = CLIPTower(**options)
    sharded.load_state_dict(plain.state_dict())
    blocks = list(sharded.stages if family == 'convnext' else sharded.blocks)
    policy = ModuleWrapPolicy({TransformerBlock})
    if family != 'convnext':  # which has stages instead
        assert [policy(module, False, 0) for module in blocks] == [True] * len(blocks)
    mesh, images = init_device_mesh('cpu', (1,)), torch.randn(2, 3, 64, 64)
    whole = Encoded(sharded)
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(whole, mesh=mesh)
    assert all(isinstance(block, FSDPModule) for block in blocks)
    expected, found = Encoded(plain)(images), whole(images)
    torch.testing.assert_close(found, expected)
    for loss in (expected, found):
        loss.backward()
    own = dict(plain.named_parameters())
    for name, parameter in sharded.named_parameters():
        gradient = parameter.grad
        wanted = own[name].grad
        assert (gradient is None) == (wanted is None), name
        if wanted is not None:
            torch.testing.assert_close(gradient.full_tensor(), wanted, rtol=1e-4, atol=1e-6)
