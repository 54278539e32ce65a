"""torch.compile takes the towers whole: no graph break, equal results and gradients, sizes that change."""

from __future__ import annotations

import shutil

import families
import pytest
import torch
from tiny_towers import resnet, vit
from torch._dynamo.testing import CompileCounterWithBackend

from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.clip.text_tower import TextTower
from vlm_dense.clip.tower import CLIPTower
from vlm_dense.clip.vit import CLIPViT

VIT = vit(embed_dim=24, text=dict(context_length=16, vocab_size=64, layers=3), layers=3)
RN = resnet(embed_dim=24, text=dict(context_length=16, vocab_size=64, layers=3), head_width=64)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def image_tower(kind, mode, with_cp):
    tower = (
        CLIPViT(VIT, head=True, with_cp=with_cp) if kind == 'vit' else CLIPResNet(RN, attnpool=True, with_cp=with_cp)
    )
    return tower.train(mode == 'train')


def check(function, inputs, parameters, dynamic=False, backend='aot_eager'):
    """Compile with ``fullgraph``, which raises at a graph break; values and gradients are those of eager mode.

    Returns:
        The number of graphs.
    """
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(function, fullgraph=True, backend=counter, dynamic=dynamic or None)

    def run(function, given):
        out = function(*given)
        return out, torch.autograd.grad(out.square().mean(), parameters) if parameters else ()

    for given in inputs:
        (expected, wanted), (found, got) = run(function, given), run(compiled, given)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-5)
    return counter.frame_count


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
@pytest.mark.parametrize(('mode', 'with_cp'), [('train', False), ('train', True), ('train', 'light'), ('eval', False)])
def test_an_image_tower_is_one_graph(kind, mode, with_cp):
    tower = image_tower(kind, mode, with_cp)
    names = ['stages', 'dense', 'value', 'global'] if kind == 'vit' else ['stages', 'dense', 'global']

    def forward(images):
        out = tower.encode(images, names)
        return torch.cat([t.flatten(1) for t in (out.global_, out.dense, out.value, *out.stages) if t is not None], 1)

    parameters = list(tower.parameters()) if mode == 'train' else []
    with torch.set_grad_enabled(mode == 'train'):
        assert check(forward, [[torch.randn(2, 3, 64, 64)]], parameters) == 1


@pytest.mark.parametrize(
    'family',
    ['pe', *(pytest.param(f, marks=pytest.mark.long) for f in ('siglip', 'eva02', 'vitamin', 'convnext', 'fastvit'))],
)
@pytest.mark.slow
def test_towers_of_timm_are_one_graph(family, monkeypatch):
    tower = CLIPTower(families.small(family, monkeypatch)).eval()
    features = ['global', 'dense', 'value', 'stages']

    def forward(images):
        out = tower.encode(images, features)
        return torch.cat([t.flatten(1) for t in (out.global_, out.dense, out.value, *out.stages)], 1)

    weights = [next(tower.parameters())]
    assert check(forward, [[torch.randn(2, 3, 64, 64)]], weights) == 1


@pytest.mark.parametrize('dynamic', [True, False])
@pytest.mark.parametrize('mode', ['train', 'eval'])
@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_images_of_new_sizes_need_no_new_graph(kind, mode, dynamic):
    """Without ``dynamic`` torch.compile makes a graph for the first size, and at the second one for all."""
    tower = image_tower(kind, mode, False)
    sizes = [(64, 96), (96, 128), (128, 160), (160, 64)]
    inputs = [[torch.randn(2, 3, *size)] for size in sizes]
    weights = [tower.conv1.weight] if mode == 'train' else []
    with torch.set_grad_enabled(mode == 'train'):
        assert check(lambda x: tower.encode(x, ['dense']).dense, inputs, weights, dynamic=dynamic) <= 2


@pytest.mark.skipif(shutil.which('g++') is None, reason='inductor compiles C++ on the CPU')
@pytest.mark.parametrize('kind', ['vit', 'resnet', 'text'])
def test_inductor_takes_every_tower(kind):
    if kind == 'text':
        tower, (own, eot) = TextTower(VIT, frozen=False), prompts()
        function, given, weights = lambda x: tower.encode(x, eot), [own], [tower.text_projection]
    else:
        tower = image_tower(kind, 'train', False)
        function, given = lambda x: tower.encode(x, ['dense']).dense, [torch.randn(2, 3, 64, 64)]
        weights = [tower.conv1.weight]
    assert check(function, [given], weights, backend='inductor') == 1


def prompts(n=5, tokens=8):
    eot = torch.arange(n) % (tokens - 2) + 2
    return torch.randn(n, tokens, 32), eot


@pytest.mark.parametrize(('frozen', 'chunk_size', 'groups'), [(True, 128, None), (True, 3, 2), (False, 3, None)])
def test_the_text_tower_is_one_graph(frozen, chunk_size, groups):
    tower = TextTower(VIT, frozen=frozen, chunk_size=chunk_size)
    own, eot = prompts()
    prefix = torch.randn(*([groups] if groups else []), 4, 32, requires_grad=True)
    parameters = [
        prefix,
        *(p for n, p in tower.named_parameters() if p.requires_grad and n != 'token_embedding.weight'),
    ]
    assert check(lambda e, p: tower.encode(e, eot, prefix=p), [[own, prefix]], parameters) == 1


@pytest.mark.parametrize('text', [dict(no_causal_mask=True), dict(no_causal_mask=True, pool_type='last')])
def test_a_text_tower_that_reads_the_whole_context_is_one_graph(text):
    arch = dict(vit(embed_dim=24, text=dict(context_length=16, vocab_size=64, layers=3, **text)), custom_text=True)
    tower = TextTower(arch, frozen=False, chunk_size=3)
    own, eot = prompts()
    prefix = torch.randn(2, 4, 32, requires_grad=True)
    assert check(lambda e, p: tower.encode(e, eot, prefix=p), [[own, prefix]], [prefix]) == 1


@torch.no_grad()
def test_the_text_tower_takes_names_of_any_length():
    """The number of names is part of a graph: its chunks are a loop."""
    tower = TextTower(VIT).eval()
    inputs = [[*prompts(5, tokens)] for tokens in (8, 9, 6, 10)]
    prefix = torch.randn(3, 32)
    assert check(lambda e, eot: tower.encode(e, eot, prefix=prefix), inputs, [], dynamic=True) <= 2


@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_token_ids_and_deep_prompts_are_one_graph(mode):
    tower = TextTower(VIT, frozen=False).train(mode == 'train')
    ids = torch.randint(1, 60, (4, 16))
    ids[:, 9], ids[1, 4] = 63, 63
    assert check(tower, [[ids]], [tower.text_projection]) == 1
    assert check(tower.token_features, [[ids]], [tower.text_projection]) == 1
    own, eot = prompts()
    deep = torch.randn(2, 2, 32, requires_grad=True)
    assert check(lambda d: tower.encode(own, eot, deep=d), [[deep]], [deep]) == 1


def test_what_a_frozen_tower_remembers_is_looked_up_outside_the_graph():
    tower = TextTower(VIT)
    ids = torch.randint(1, 60, (4, 16))
    ids[:, 9] = 63
    explained = torch._dynamo.explain(lambda ids: 2 * tower(ids))(ids)
    assert explained.graph_break_count == 1 and 'remember' in str(explained.break_reasons[0].reason)
    torch.testing.assert_close(torch.compile(lambda ids: 2 * tower(ids), backend='eager')(ids), 2 * tower(ids))
