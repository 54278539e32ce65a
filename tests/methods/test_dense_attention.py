"""A part of a config decides how the last blocks of a ViT make dense features; the tower knows none of them."""

from __future__ import annotations

import pytest
import torch
from tiny_towers import vit
from torch.nn import functional as F

from vlm_dense.clip.image_tower import PromptTokens
from vlm_dense.clip.last_blocks import DenseTokens
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.contract import DenseAttention, ValueAttention
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

ARCH = vit(embed_dim=24, text=dict(context_length=16, vocab_size=64, heads=1, layers=1), layers=4)


class KeyAttention(DenseAttention):
    """Key-key attention without residual and MLP, as in the contract's page."""

    def forward(self, last):
        tokens = last.blocks[0](last.tokens, path=self._path)
        return DenseTokens(tokens[:, last.patches], last.grid)

    @staticmethod
    def _path(block, x):
        _, k, v = block.attn.qkv(block.ln_1(x))
        return block.attn.output(block.attn.weights(k, k) @ v)


class Recorder(DenseAttention):
    """Runs the last two blocks, reads earlier ones, and returns a map of another size."""

    num_blocks, hidden_states, attention_maps = 2, (0, 1), (1,)

    def forward(self, last):
        self.seen = last
        x = last.tokens
        for block in last.blocks:
            x = block(x)
        grid = x[:, last.patches].transpose(1, 2).unflatten(2, last.grid)
        finer = F.interpolate(grid, scale_factor=2)
        return DenseTokens(finer.flatten(2).transpose(1, 2), tuple(finer.shape[2:]))


class Feedback(DenseAttention):
    """Weighs each patch by the largest score of a first labelling."""

    reads_classes = True

    def forward(self, last):
        tokens = last.blocks[0](last.tokens)[:, last.patches]
        features = last.project(tokens).transpose(1, 2).unflatten(2, last.grid)
        return DenseTokens(tokens * last.classify(features).amax(1).flatten(1)[..., None], last.grid)


@pytest.fixture(autouse=True)
def registered():
    parts = KeyAttention, Recorder, Feedback
    for part in parts:
        MODELS.register_module(module=part)
    yield
    for part in parts:
        MODELS._module_dict.pop(part.__name__)


def tower(part=None, **kwargs):
    torch.manual_seed(0)
    cfg = part and dict(type=f'vlm_dense.{part}')
    return CLIPViT(ARCH, head=True, dense_attention=cfg, **kwargs).eval()


def images(n=2, *size):
    return torch.randn(n, 3, *(size or (24, 40)), generator=torch.Generator().manual_seed(2))


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def heads(x):
    return x.unflatten(-1, (2, 16)).transpose(1, 2)


@torch.no_grad()
def test_a_part_gives_the_value_and_leaves_the_rest():
    plain, other = tower(), tower('KeyAttention')
    found, wanted = (t.encode(images(), ['value', 'global', 'dense']) for t in (other, plain))
    close(found.global_, wanted.global_)
    close(found.dense, wanted.dense)
    assert found.key is None and wanted.key.shape == (2, 15, 32)

    x = plain.ln_pre(plain.embed(images())[0])
    for block in plain.transformer.resblocks[:-1]:
        x = block(x)
    last = plain.transformer.resblocks[-1]
    y = last.ln_1(x) @ last.attn.in_proj_weight.T + last.attn.in_proj_bias
    k, v = heads(y[..., 32:64]), heads(y[..., 64:])
    mixed = (k @ k.transpose(-1, -2) / 4).softmax(-1) @ v
    out = last.attn.out_proj(mixed.transpose(1, 2).flatten(2))
    out = F.layer_norm(out, (32,), plain.ln_post.weight, plain.ln_post.bias) @ plain.proj
    close(found.value.flatten(2).transpose(1, 2), out[:, 1:])


@torch.no_grad()
def test_no_part_means_maskclips_value_path():
    assert isinstance(tower().dense_attention, ValueAttention)
    found, wanted = (t.encode(images(), ['value']) for t in (tower('ValueAttention'), tower()))
    close(found.value, wanted.value)
    close(found.key, wanted.key)
    assert tower().state_dict().keys() == tower('ValueAttention').state_dict().keys()
    assert not any(name.startswith('dense_attention') for name in tower().state_dict())


@torch.no_grad()
@pytest.mark.parametrize('place', ['front', 'end'])
def test_patches_are_found_among_prompt_tokens(place):
    own = tower('KeyAttention')
    prompts = PromptTokens(torch.randn(3, 32), place=place)
    found = own.encode(images(), ['value'], prompts).value
    assert found.shape == (2, 24, 3, 5)
    x = own.ln_pre(prompts.join(own.embed(images())[0], prompts.first))
    for block in own.transformer.resblocks[:-1]:
        x = block(x)
    x = own.project(KeyAttention._path(own.transformer.resblocks[-1], x))
    close(found.flatten(2).transpose(1, 2), x[:, 4:] if place == 'front' else x[:, 1:-3])


@torch.no_grad()
def test_a_part_reads_earlier_blocks_and_runs_several():
    own = tower('Recorder')
    found = own.encode(images(), ['value', 'dense'])
    close(found.value, F.interpolate(found.dense, scale_factor=2))
    seen, x = own.dense_attention.seen, own.ln_pre(own.embed(images())[0])
    assert sorted(seen.hidden_states) == [0, 1] and sorted(seen.attention_maps) == [1]
    assert seen.grid == (3, 5) and len(seen.blocks) == 2
    for i in (0, 1):
        if i == 1:
            block = own.transformer.resblocks[1]
            q, k, _ = block.attn.qkv(block.ln_1(x))
            close(seen.attention_maps[1], (q @ k.transpose(-1, -2) / 4).softmax(-1))
        x = own.transformer.resblocks[i](x)
        close(seen.hidden_states[i], x)
    close(seen.tokens, x)
    close(seen.images, images())
    with pytest.raises(ConfigError, match='prompt tokens'):
        own.encode(images(), ['value'], PromptTokens(torch.randn(3, 32)))


@torch.no_grad()
def test_a_part_that_reads_classes_gets_the_tasks_classifier():
    own, text = tower('Feedback'), torch.randn(5, 24)

    def classify(features):
        return torch.einsum('bdhw,kd->bkhw', features, text)

    found = own.encode(images(), ['value', 'dense'], classify=classify)
    x = own.ln_pre(own.embed(images())[0])
    for block in own.transformer.resblocks:
        x = block(x)
    weighted = x[:, 1:] * (own.project(x[:, 1:]) @ text.T).amax(-1, keepdim=True)
    close(found.value.flatten(2).transpose(1, 2), own.project(weighted))
    alone = [own.encode(images()[i : i + 1], ['value'], classify=classify).value for i in range(2)]
    close(found.value, torch.cat(alone))
    with pytest.raises(ConfigError, match='classify'):
        own.encode(images(), ['value'])
    assert own.encode(images(), ['global']).global_.shape == (2, 24)


def test_parts_that_do_not_fit_the_tower_are_refused(monkeypatch):
    with pytest.raises(ConfigError, match='head=True'):
        CLIPViT(ARCH, dense_attention=dict(type='vlm_dense.KeyAttention'))
    monkeypatch.setattr(Recorder, 'hidden_states', (2,))
    with pytest.raises(ConfigError, match=r'0\.\.1; found \[2\]'):
        tower('Recorder')
    monkeypatch.setattr(Recorder, 'num_blocks', 5)
    with pytest.raises(ConfigError, match='4 blocks'):
        tower('Recorder')
    with pytest.raises(ConfigError, match='ValueAttention'):
        tower('ValueAtention')


def test_gradients_pass_through_a_part():
    own = tower('KeyAttention')
    pixels = images().requires_grad_()
    own.encode(pixels, ['value']).value.sum().backward()
    assert pixels.grad.abs().sum() > 0
