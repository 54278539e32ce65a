"""DeCLIP: the last block's modes, the second teacher, what is trained, and the tower in segmentation."""

from __future__ import annotations

from pathlib import Path

import families
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.structures import BaseDataElement
from tiny_towers import vit

from vlm_dense.engine.runner.launch import fill_class_names
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.methods.dense.affinity import cosines
from vlm_dense.registry import MODELS

ROOT = Path(__file__).parents[2]
PROXY = dict(type='vlm_dense.ProxyViT', model='vit_tiny_patch16_224', pretrained=False, depth=1, embed_dim=12)


def tower(attention: dict, **options):
    torch.manual_seed(0)
    cfg = dict(type='vlm_dense.CLIPViT', arch=vit(), head=True, dense_attention=attention)
    return MODELS.build(cfg | options).eval()


def build(**options):
    backbone = dict(type='vlm_dense.CLIPViT', arch=vit()) | options.pop('backbone', {})
    return MODELS.build(dict(dict(type='vlm_dense.DeCLIP', backbone=backbone, proxy=PROXY), **options))


def samples(side: int | None = 64) -> list[BaseDataElement]:
    boxes = torch.tensor([[0.0, 0, 32, 32], [3, 5, 20, 30]])
    found = [BaseDataElement(boxes=boxes, crops=torch.randn(2, 3, 32, 32)) for _ in range(2)]
    for sample in found if side else ():
        sample.set_field(torch.randn(3, side, side), 'proxy')
    return found


@torch.no_grad()
def test_the_tokens_of_qq_and_kk_are_clearclips():
    images = torch.randn(2, 3, 32, 48)
    for mode in ('qq', 'kk'):
        ours = tower(dict(type='vlm_dense.DeCLIPAttention', mode=mode)).encode(images, ('value',))
        theirs = tower(dict(type='vlm_dense.ClearCLIPAttention', similarity=[mode])).encode(images, ('value',))
        assert torch.equal(ours.value, theirs.value) and ours.key.shape == (2, 24, 32)


@torch.no_grad()
def test_the_context_of_csa_gives_the_mean_of_both_similarities():
    images = torch.randn(1, 3, 32, 32)
    q, k, both = (
        cosines(tower(dict(type='vlm_dense.DeCLIPAttention', mode=mode)).encode(images, ('value',)).key)
        for mode in ('qq', 'kk', 'csa')
    )
    torch.testing.assert_close(both, (q + k) / 2)


@torch.no_grad()
def test_scores_without_scale_are_larger_by_the_root_of_the_channels():
    images = torch.randn(1, 3, 32, 32)
    plain = tower(dict(type='vlm_dense.DeCLIPAttention', scaled=False))
    seen = []
    plain.blocks[-1].attn.out_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    plain.encode(images, ('value',))
    x = []
    plain.blocks[-1].register_forward_pre_hook(lambda _, args: x.append(args[0]))
    plain.encode(images, ('value',))
    q, _, v = plain.blocks[-1].qkv(x[0])
    torch.testing.assert_close(seen[0], ((q @ q.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


@torch.no_grad()
def test_towers_of_eva_leave_the_rotation_out_unless_asked(monkeypatch):
    arch = families.small('eva02', monkeypatch)
    found = {}
    for rotary in (False, True):
        torch.manual_seed(0)
        part = dict(type='vlm_dense.DeCLIPAttention', rotary=rotary)
        built = MODELS.build(dict(type='vlm_dense.CLIPTimmViT', arch=arch, head=True, dense_attention=part)).eval()
        found[rotary] = built.encode(torch.ones(1, 3, 64, 64), ('value',)).key
    lengths = [context.norm(dim=-1) for context in found.values()]  # a rotation keeps them
    torch.testing.assert_close(*lengths)
    assert not torch.allclose(found[False], found[True])


def test_what_cannot_work_is_refused():
    with pytest.raises(ConfigError, match='no second backbone.*CLIPSelf, which needs none'):
        build(proxy=None)
    with pytest.raises(ConfigError, match='mode must be one of'):
        build(backbone=dict(dense_attention=dict(type='vlm_dense.DeCLIPAttention', mode='qk')))
    with pytest.raises(ConfigError, match='the backbone has a ValueAttention'):
        build(backbone=dict(dense_attention=dict(type='vlm_dense.ValueAttention')))
    with pytest.raises(DataError, match='grid of 3 x 3, the backbone one of 4 x 4'):
        build().loss(torch.randn(2, 3, 32, 32), samples(side=48))


@pytest.mark.parametrize('mode', ['qq', 'kk', 'csa'])
def test_no_trained_parameter_is_without_gradient_in_any_mode(mode, monkeypatch):
    arch = families.small('eva02', monkeypatch)
    cfg = dict(
        type='vlm_dense.CLIPTimmViT', arch=arch, dense_attention=dict(type='vlm_dense.DeCLIPAttention', mode=mode)
    )
    model = build(backbone=dict(cfg, type='vlm_dense.CLIPTimmViT'), unit_map=False).train()
    found = samples(side=64)
    for sample in found:
        sample.set_field(torch.randn(2, 3, 64, 64), 'crops')
    sum(model.loss(torch.randn(2, 3, 64, 64), found).values()).backward()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(model.get_parameter(name).grad is not None for name in trained)
    last = {name.split('blocks.1.attn.')[1] for name in trained if 'blocks.1.attn.' in name}
    projections = {name for name in last if name[:1] in 'qk'}
    wanted = dict(qq={'q_proj.weight', 'q_proj.bias'}, kk={'k_proj.weight'})
    assert projections == wanted.get(mode, wanted['qq'] | wanted['kk'])
    assert not any('blocks.1.mlp' in name or 'blocks.1.norm2' in name for name in trained)


def test_the_context_loss_is_a_mean_of_norms_of_rows_and_the_proxy_is_in_its_own_colours():
    model = build(
        context_weight=0.5,
        data_preprocessor=dict(type='vlm_dense.RegionDataPreprocessor', mean=[0.0] * 3, std=[255.0] * 3),
    )
    images, found = torch.rand(2, 3, 32, 32), samples(side=64)
    seen = []
    model.proxy.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    losses = model.loss(images, found)
    proxies = torch.stack([sample.proxy for sample in found])
    torch.testing.assert_close(seen[0], (proxies - 0.5) / 0.5)  # timm's mean and deviation of this model
    target = cosines(model.proxy(seen[0]).flatten(2).mT)
    own = F.normalize(model.student_features(images).key, dim=-1)
    expected = 0.5 * ((target - own @ own.mT).square().sum(-1).sqrt()).mean()
    torch.testing.assert_close(losses['loss_context'], expected)


def test_both_losses_fall():
    model = build().train()
    images, found = torch.randn(2, 3, 32, 32), samples()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
    history = []
    for _ in range(6):
        losses = model.loss(images, found)
        sum(losses.values()).backward()
        optimiser.step()
        optimiser.zero_grad()
        history.append({name: value.item() for name, value in losses.items()})
    assert all(history[-1][name] < history[0][name] for name in ('loss_content', 'loss_context'))


def test_the_config_for_drawn_scenes_gets_its_class_names():
    cfg = Config.fromfile(ROOT / 'configs/declip/declip_shapes.py')
    fill_class_names(cfg)
    model = MODELS.build(cfg.model)
    assert model.class_names[0] == 'circle' and len(model.class_names) == 8


def test_a_tower_is_run_with_its_last_block_in_segmentation():
    cfg = Config.fromfile(ROOT / 'configs/declip/declip-windows_tiny-vit_shapes.py').model
    model = MODELS.build(dict(cfg, class_names=['circle', 'star'])).eval()
    assert model(torch.randn(1, 3, 96, 96)).isfinite().all()
