"""Two processes over gloo that shard the weights of each block compute the losses of one process."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

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
