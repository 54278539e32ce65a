"""The image towers equal open_clip where open_clip has an answer, and brute force elsewhere."""

from __future__ import annotations

import math
import subprocess
import sys
import weakref

import open_clip
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tiny_towers import resnet, vit
from torch import nn

from vlm_dense.clip.image_tower import PromptTokens, resize_positions
from vlm_dense.clip.resnet import CLIPResNet
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.engine.runner.cpu_distributed import CPUSyncBatchNorm
from vlm_dense.errors import ConfigError

RN = resnet(embed_dim=24, text=dict(context_length=16, vocab_size=64, heads=1, layers=1), head_width=64)
VIT = vit(embed_dim=24, text=dict(context_length=16, vocab_size=64, heads=1, layers=1), layers=4)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    """One file of random weights for each architecture, and the open_clip models that hold them."""
    folder = tmp_path_factory.mktemp('weights')
    out = {}
    for name, arch in (('rn', RN), ('vit', VIT)):
        torch.manual_seed(1)
        clip = open_clip.model.CLIP(**arch).eval()
        for m in clip.modules():
            if isinstance(m, nn.BatchNorm2d):
                nn.init.uniform_(m.weight, 0.5, 1.5)
                nn.init.normal_(m.running_mean, std=0.1)
        torch.save(clip.state_dict(), folder / f'{name}.pt')
        out[name] = str(folder / f'{name}.pt'), clip
    return out


def resnet(weights, **kwargs):
    return CLIPResNet(RN, weights['rn'][0], attnpool=True, **kwargs).eval()


def vit(weights, **kwargs):
    return CLIPViT(VIT, weights['vit'][0], head=True, **kwargs).eval()


def tokens_of(visual, images):
    """What enters the first block, for images of the size the model was made for."""
    patches = visual.conv1(images).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(images), 1, -1), patches], dim=1)
    return visual.ln_pre(x + visual.positional_embedding)


def close(a, b, tol=1e-5):
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


@torch.no_grad()
def test_global_feature_is_open_clips(weights):
    images = torch.randn(2, 3, 64, 64)
    close(resnet(weights).encode(images, ['global']).global_, weights['rn'][1].encode_image(images))
    images = torch.randn(2, 3, 32, 32)
    close(vit(weights).encode(images, ['global']).global_, weights['vit'][1].encode_image(images))


@torch.no_grad()
def test_resnet_stages_are_open_clips_layers_at_strides_4_to_32(weights):
    tower, images = resnet(weights), torch.randn(1, 3, 96, 160)
    visual = weights['rn'][1].visual
    x, wanted = visual.stem(images), []
    for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        x = layer(x)
        wanted.append(x)
    for i, (found, layer) in enumerate(zip(tower(images), wanted, strict=True)):
        close(found, layer)
        assert found.shape[1] == tower.out_channels[i] and found.shape[2:] == (96 // 4 // 2**i, 160 // 4 // 2**i)


@torch.no_grad()
def test_attention_pool_with_all_tokens_equals_torch_attention(weights):
    tower, x = resnet(weights), torch.randn(2, 256, 3, 5)
    pool = tower.attnpool
    tokens = torch.cat([x.mean((2, 3))[:, None], x.flatten(2).transpose(1, 2)], 1)
    tokens = tokens + resize_positions(pool.positional_embedding, (3, 5))
    mha = nn.MultiheadAttention(256, pool.num_heads, batch_first=True, bias=True)
    mha.in_proj_weight.copy_(torch.cat([pool.q_proj.weight, pool.k_proj.weight, pool.v_proj.weight]))
    mha.in_proj_bias.copy_(torch.cat([pool.q_proj.bias, pool.k_proj.bias, pool.v_proj.bias]))
    mha.out_proj = nn.Identity()
    mha.out_proj.weight, mha.out_proj.bias = torch.eye(256), torch.zeros(256)
    close(tower.attention_pool(x, all_tokens=True), pool.c_proj(mha(tokens, tokens, tokens, need_weights=False)[0]))
    close(tower.attention_pool(x, all_tokens=False), tower.attention_pool(x, all_tokens=True)[:, :1])


@torch.no_grad()
def test_pool_positions_are_cropped_on_request_and_refused_beyond_the_grid(weights):
    tower = resnet(weights, attnpool_positions='crop', input_resolution=96)
    table = tower.attnpool.positional_embedding
    rows = torch.cat([table[:1], table[1:3], table[4:6]])
    close(tower.pool_tokens(torch.zeros(1, tower.width, 2, 2))[0], rows)
    with pytest.raises(ConfigError, match='3 x 3 grid'):
        tower.encode(torch.randn(1, 3, 64, 160), ['dense'])


@torch.no_grad()
def test_resnet_value_path_is_two_linear_maps_of_each_position(weights):
    tower, images = resnet(weights), torch.randn(1, 3, 64, 96)
    out = tower.encode(images, ['value', 'patch'])
    pixel = out.patch[0, :, 1, 2]
    pool = tower.attnpool
    close(out.value[0, :, 1, 2], pool.c_proj(pool.v_proj(pixel)))
    close(out.key[0, 1 * 3 + 2], pool.k_proj(pixel))


@torch.no_grad()
def test_vit_value_path_is_a_last_block_in_which_tokens_see_only_themselves(weights):
    tower, images = vit(weights), torch.randn(2, 3, 32, 32)
    visual = weights['vit'][1].visual
    x = tokens_of(visual, images)
    for block in visual.transformer.resblocks[:-1]:
        x = block(x)
    last = visual.transformer.resblocks[-1]
    only_self = torch.full((17, 17), float('-inf')).fill_diagonal_(0)
    x = visual.ln_post(last(x, attn_mask=only_self)) @ visual.proj
    close(tower.encode(images, ['value']).value.flatten(2).transpose(1, 2), x[:, 1:])


@torch.no_grad()
def test_vit_dense_features_are_open_clips_projected_tokens(weights):
    tower, images = vit(weights), torch.randn(2, 3, 32, 32)
    visual = weights['vit'][1].visual
    x = visual.ln_post(visual.transformer(tokens_of(visual, images))) @ visual.proj
    out = tower.encode(images, ['dense', 'global', 'patch'])
    close(out.dense.flatten(2).transpose(1, 2), x[:, 1:])
    close(out.global_, x[:, 0])


@torch.no_grad()
@pytest.mark.parametrize('size', [(5, 3), (33, 64), (8, 200)])
def test_vit_takes_any_size_by_padding_right_and_bottom_with_zeros(weights, size):
    tower = vit(weights)
    images = torch.randn(1, 3, *size)
    h, w = -(-size[0] // 8), -(-size[1] // 8)
    padded = torch.zeros(1, 3, 8 * h, 8 * w)
    padded[..., : size[0], : size[1]] = images
    found, wanted = (tower.encode(x, ['dense', 'stages']) for x in (images, padded))
    assert found.dense.shape == (1, 24, h, w)
    close(found.dense, wanted.dense)


def test_positions_are_resized_as_torch_interpolates():
    table = torch.randn(10, 6)
    for mode in ('bilinear', 'bicubic'):
        found = resize_positions(table, (5, 2), mode)
        grid = F.interpolate(table[1:].T.reshape(1, 6, 3, 3), size=(5, 2), mode=mode, align_corners=False)
        close(found[1:], grid.reshape(6, 10).T)
        close(found[0], table[0])


@pytest.mark.parametrize('size', [(5, 2), (2, 3), (4, 4)])
def test_scaled_positions_are_sampled_where_dino_samples(size):
    """Output i reads the source at (i + 0.5) * side / (size + 0.1) - 0.5 with the kernel of a = -0.75."""
    table = torch.randn(10, 6, dtype=torch.float64)
    (h, w), side = size, 3

    def weights(n):
        out = torch.zeros(n, side, dtype=torch.float64)
        for i in range(n):
            place = (i + 0.5) * side / (n + 0.1) - 0.5
            for j in range(math.floor(place) - 1, math.floor(place) + 3):
                d, a = abs(place - j), -0.75
                near = (a + 2) * d**3 - (a + 3) * d**2 + 1
                far = a * (d**3 - 5 * d**2 + 8 * d - 4)
                out[i, min(max(j, 0), side - 1)] += near if d <= 1 else far if d < 2 else 0
        return out

    wanted = torch.einsum('hy,wx,yxc->hwc', weights(h), weights(w), table[1:].view(side, side, 6))
    found = resize_positions(table, size, 'bicubic_scaled')
    close(found[1:], wanted.reshape(h * w, 6))
    assert not torch.allclose(found, resize_positions(table, size, 'bicubic'), atol=1e-4)
    wide = torch.randn(17, 6)
    assert torch.equal(resize_positions(wide, (2, 8), 'bicubic_scaled'), wide)


@torch.no_grad()
def test_a_remainder_that_fills_no_patch_can_be_dropped(weights):
    tower = vit(weights, remainder='drop', pos_mode='bicubic_scaled')
    images = torch.randn(1, 3, 39, 70)
    found = tower.encode(images, ['dense']).dense
    assert found.shape == (1, 24, 4, 8)
    close(found, tower.encode(images[..., :32, :64], ['dense']).dense)
    with pytest.raises(ConfigError, match='8 x 8 px'):
        tower(torch.randn(1, 3, 7, 70))
    with pytest.raises(ConfigError, match='remainder'):
        vit(weights, remainder='cut')
    with pytest.raises(ConfigError, match='pos_mode'):
        vit(weights, pos_mode='cubic')


@torch.no_grad()
@pytest.mark.parametrize('place', ['end', 'front'])
@pytest.mark.parametrize('through_ln_pre', [True, False])
def test_prompt_tokens_equal_a_brute_force_loop(weights, place, through_ln_pre):
    tower, images = vit(weights), torch.randn(2, 3, 32, 32)
    visual = weights['vit'][1].visual
    first, deep = torch.randn(3, 32), [torch.randn(3, 32), torch.randn(2, 3, 32)]
    found = tower.encode(images, ['dense', 'global'], PromptTokens(first, deep, place, through_ln_pre))

    x = tower.embed(images)[0]
    cls, patches, tokens = x[:, :1], x[:, 1:], first.expand(2, -1, -1)
    if through_ln_pre:
        tokens = visual.ln_pre(tokens)
    cls, patches = visual.ln_pre(cls), visual.ln_pre(patches)
    for i, block in enumerate(visual.transformer.resblocks):
        if i in (1, 2):
            tokens = deep[i - 1].expand(2, -1, -1)
        order = [cls, tokens, patches] if place == 'front' else [cls, patches, tokens]
        parts = block(torch.cat(order, 1)).split([t.shape[1] for t in order], 1)
        cls = parts[0]
        tokens, patches = (parts[1], parts[2]) if place == 'front' else (parts[2], parts[1])
    close(found.global_, visual.ln_post(cls[:, 0]) @ visual.proj)
    close(found.dense.flatten(2).transpose(1, 2), visual.ln_post(patches) @ visual.proj)


def test_prompt_tokens_are_refused_by_a_resnet(weights):
    with pytest.raises(ConfigError, match='ViT'):
        resnet(weights).encode(torch.randn(1, 3, 64, 64), ['global'], PromptTokens(torch.randn(2, 8)))


@pytest.mark.parametrize('frozen', [-1, 0, 2])
def test_frozen_stages_get_no_gradient_and_stay_in_eval_mode(weights, frozen):
    tower = resnet(weights, frozen_stages=frozen).train()
    assert tower.conv1.weight.requires_grad == (frozen < 0)
    assert tower.bn1.training == (frozen < 0)
    for i in range(1, 5):
        layer = getattr(tower, f'layer{i}')
        assert all(p.requires_grad == (i > frozen) for p in layer.parameters())
        assert layer[0].bn1.training == (i > frozen)
    tower = vit(weights, frozen_stages=frozen).train()
    assert tower.class_embedding.requires_grad == (frozen < 0)
    for i, block in enumerate(tower.transformer.resblocks):
        assert all(p.requires_grad == (i >= frozen) for p in block.parameters())


def test_norm_eval_keeps_statistics(weights):
    tower = resnet(weights, norm_eval=True).train()
    before = tower.bn1.running_mean.clone()
    tower(torch.randn(2, 3, 64, 64))
    assert torch.equal(tower.bn1.running_mean, before) and tower.bn1.weight.requires_grad


@pytest.mark.parametrize('light', [True, 'light'])
@pytest.mark.parametrize('build', [resnet, vit])
def test_recomputation_changes_no_gradient(weights, build, light):
    images = torch.randn(2, 3, 64, 64)
    grads = []
    for with_cp in (False, light):
        tower = build(weights, with_cp=with_cp).train()
        tower.encode(images, ['dense']).dense.square().sum().backward()
        grads.append({n: p.grad for n, p in tower.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        if light == 'light':  # the same operations on the same numbers
            assert torch.equal(grads[1][name], grad), name
        close(grads[1][name], grad, 1e-4)


@pytest.mark.parametrize('build', [resnet, vit])
def test_recomputation_keeps_less(weights, build):
    images, kept = torch.randn(2, 3, 64, 64), {}
    for with_cp in (False, 'light', True) if build is resnet else (False, True):
        tower, saved = build(weights, with_cp=with_cp).train(), []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t), lambda t: t):
            tower.encode(images, ['dense'])
        kept[with_cp] = sum({t.data_ptr(): t.nbytes for t in saved}.values())
    assert all(kept[with_cp] < 0.9 * kept[False] for with_cp in kept if with_cp)


@pytest.mark.parametrize('with_cp', [False, 'light'])
def test_light_recomputation_of_a_vit_keeps_neither_normalised_nor_hidden_tokens(weights, with_cp):
    tower, made = vit(weights, with_cp=with_cp).train(), []
    for block in tower.transformer.resblocks:
        for part in (block.ln_1, block.ln_2, block.mlp[1]):
            part.register_forward_hook(lambda part, inputs, output: made.append(weakref.ref(output)))
    dense = tower.encode(torch.randn(2, 3, 64, 64), ['dense']).dense
    assert dense.requires_grad and len(made) == 3 * len(tower.transformer.resblocks)
    assert sum(ref() is not None for ref in made) == (0 if with_cp else len(made))


@pytest.mark.parametrize('with_cp', ['heavy', 2, None])
@pytest.mark.parametrize('build', [resnet, vit])
def test_another_recomputation_is_refused(weights, build, with_cp):
    with pytest.raises(ConfigError, match="'light'"):
        build(weights, with_cp=with_cp)


@pytest.mark.parametrize('frozen', [0, 2])
def test_recomputing_a_frozen_stem_is_refused(weights, frozen):
    with pytest.raises(ConfigError, match=f'frozen_stages={frozen}.*with_cp=True'):
        resnet(weights, with_cp='light', frozen_stages=frozen)


@pytest.mark.parametrize('light', [True, 'light'])
@pytest.mark.parametrize('sync', [False, True])
def test_recomputation_updates_batch_statistics_once(weights, sync, light, monkeypatch):
    monkeypatch.setattr(dist, 'all_reduce', lambda x: None)  # one process
    images = torch.randn(2, 3, 64, 64)
    found = []
    for with_cp in (False, light):
        tower = CLIPResNet(RN, weights['rn'][0], with_cp=with_cp, frozen_stages=1 if light is True else -1)
        if sync:  # the stand-in of SyncBN on CPUs, in one process
            for m in tower.modules():
                if isinstance(m, nn.BatchNorm2d):
                    m.__class__ = CPUSyncBatchNorm
        tower.train()
        for _ in range(2):
            sum(m.square().mean() for m in tower(images)).backward()
        found.append({k: v for k, v in tower.named_buffers() if 'running' in k or 'tracked' in k})
        assert all(m.momentum == 0.1 for m in tower.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    assert found[0]['layer4.0.bn1.num_batches_tracked'] == 2
    assert (
        found[0]['layer1.0.bn1.num_batches_tracked']
        == (0 if light is True else 2)
        == found[0]['bn1.num_batches_tracked']
    )
    for name, value in found[0].items():
        close(found[1][name], value)


@pytest.mark.parametrize(
    ('kind', 'arch', 'key', 'indices', 'dropped'),
    [
        (CLIPResNet, RN, 'rn', (0, 1, 2), 'layer4.'),
        (CLIPResNet, RN, 'rn', (1,), ('layer3.', 'layer4.')),
        (CLIPViT, VIT, 'vit', (0, 1), ('transformer.resblocks.2.', 'transformer.resblocks.3.')),
    ],
)
def test_every_parameter_of_a_backbone_gets_a_gradient(weights, kind, arch, key, indices, dropped):
    tower = kind(arch, weights[key][0], out_indices=indices)
    images = torch.randn(2, 3, 64, 64)
    whole = kind(arch, weights[key][0], **{'attnpool' if key == 'rn' else 'head': True}, out_indices=indices).eval()
    assert {k for k in whole.state_dict() if k.startswith(dropped)} and not any(
        k.startswith(dropped) for k in tower.state_dict()
    )
    for found, expected in zip(tower.eval()(images), whole(images), strict=True):
        close(found, expected)
    sum(m.square().sum() for m in tower.train()(images)).backward()
    assert [n for n, p in tower.named_parameters() if p.grad is None] == []
    plain = kind(arch, weights[key][0])  # all stages
    changed = {k: v + 1 for k, v in plain.state_dict().items()}
    nn.Sequential(tower).load_state_dict({f'0.{k}': v for k, v in changed.items()})
    assert all(torch.equal(v, changed[k]) for k, v in tower.state_dict().items())
    with pytest.raises(RuntimeError, match='Missing'):
        tower.load_state_dict({k: v for k, v in changed.items() if not k.startswith('conv1')})
    with pytest.raises(ConfigError, match='patch'):
        tower.encode(images, ['patch'])
    assert kind(arch, out_indices=indices, frozen_stages=4).train().conv1.weight.requires_grad is False


def test_stages_that_nobody_asked_for_are_not_computed(weights):
    tower, ran = resnet(weights, out_indices=(0, 1)), []
    for i in range(1, 5):
        getattr(tower, f'layer{i}')[0].register_forward_hook(lambda *_, i=i: ran.append(i))
    tower(torch.randn(1, 3, 64, 64))
    assert ran == [1, 2]
    tower.encode(torch.randn(1, 3, 64, 64), ['stages', 'global'])
    assert ran == [1, 2, 1, 2, 3, 4]


def test_drop_path_acts_in_training_only(weights):
    tower, images = vit(weights, drop_path_rate=0.9), torch.randn(2, 3, 32, 32)
    close(tower(images)[-1], vit(weights)(images)[-1])
    tower.train()
    assert not torch.allclose(tower(images)[-1], tower(images)[-1])


def test_sync_bn_replaces_every_batch_norm(weights):
    tower = CLIPResNet(RN, weights['rn'][0], norm_cfg=dict(type='SyncBN'))
    norms = [m for m in tower.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert norms and all(isinstance(m, nn.SyncBatchNorm) for m in norms)
    assert not any(n.startswith('attnpool') for n, _ in tower.named_parameters())


def test_one_pixel_batch_norm_is_explained(weights):
    tower = resnet(weights).train()
    with pytest.raises(ConfigError, match='norm_eval=True'):
        tower(torch.randn(1, 3, 32, 32))
    assert all(torch.isfinite(x).all() for x in tower(torch.randn(1, 3, 64, 32)))


def test_checkpoint_of_another_resolution_is_resized_on_load(weights):
    small, large = resnet(weights), resnet(weights, input_resolution=96)
    table = small.attnpool.positional_embedding
    large.load_state_dict(small.state_dict())
    close(large.attnpool.positional_embedding.data, resize_positions(table, (3, 3)).data)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(out_indices=[4]), '0..3'),
        (dict(out_indices=[]), '0..3'),
        (dict(frozen_stages=9), 'frozen_stages'),
        (dict(norm_cfg=dict(type='GN')), 'SyncBN'),
        (dict(attnpool_positions='wrap'), 'crop'),
    ],
)
def test_impossible_settings_are_explained(weights, kwargs, message):
    with pytest.raises(ConfigError, match=message):
        CLIPResNet(RN, **kwargs)


def test_wrong_kind_of_tower_names_the_right_one():
    with pytest.raises(ConfigError, match='vlm_dense.CLIPViT'):
        CLIPResNet(VIT)
    with pytest.raises(ConfigError, match='head=True'):
        CLIPViT(VIT).encode(torch.randn(1, 3, 32, 32), ['global'])
    with pytest.raises(ConfigError, match='blurb'):
        CLIPViT(VIT).encode(torch.randn(1, 3, 32, 32), ['blurb'])


_PLAIN_MM = """
{first}
import torch
from {package}.registry import MODELS
from mmengine.registry import init_default_scope
init_default_scope('{package}')
arch = {arch}
backbone = MODELS.build(dict(type='vlm_dense.{kind}', arch=arch))
maps = backbone(torch.randn(1, 3, 64, 64))
print([tuple(m.shape) for m in maps])
"""


@pytest.mark.parametrize(
    ('package', 'kind', 'arch', 'first'),
    [('mmseg', 'CLIPViT', VIT, ''), ('mmdet', 'CLIPResNet', RN, 'import vlm_dense.ops  # as custom_imports does')],
)
def test_backbones_resolve_in_plain_mm_registries(package, kind, arch, first):
    code = _PLAIN_MM.format(package=package, kind=kind, arch=arch, first=first)
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    wanted = {
        'CLIPViT': str([(1, 32, 8, 8)] * 4),
        'CLIPResNet': '[(1, 32, 16, 16), (1, 64, 8, 8), (1, 128, 4, 4), (1, 256, 2, 2)]',
    }
    assert wanted[kind] in done.stdout, done.stderr[-2000:]
