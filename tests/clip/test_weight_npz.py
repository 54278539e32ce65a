"""Weights in numpy's npz: big_vision's SigLIP, TIPSv2's; nothing in such a file is run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlm_dense.clip.loading import load_clip, load_text, read_state_dict
from vlm_dense.clip.tips import ARCHITECTURES, converted
from vlm_dense.clip.tower import CLIPTower
from vlm_dense.errors import CheckpointError, ConfigError

SIGLIP = dict(
    embed_dim=32,
    init_logit_bias=-10,
    custom_text=True,
    vision_cfg=dict(image_size=32, timm_model_name='vit_base_patch16_siglip_224', timm_pool='map', timm_proj='none'),
    text_cfg=dict(
        context_length=8,
        vocab_size=40,
        width=32,
        heads=2,
        layers=2,
        no_causal_mask=True,
        proj_bias=True,
        pool_type='last',
    ),
)


@pytest.fixture
def siglip(monkeypatch):
    from timm.models import _registry

    name, small = SIGLIP['vision_cfg']['timm_model_name'], dict(embed_dim=32, depth=2, num_heads=2, img_size=32)
    entry = _registry._model_entrypoints[name]
    monkeypatch.setitem(_registry._model_entrypoints, name, lambda **given: entry(**{**small, **given}))
    torch.manual_seed(0)
    model = load_clip(SIGLIP)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def big_vision(model) -> dict[str, np.ndarray]:
    """A model's weights as big_vision has them."""
    found = {}

    def put(prefix, linear, heads=None):
        weight, bias = linear if isinstance(linear, tuple) else (linear.weight, linear.bias)
        kernel = weight.detach().numpy().T
        if heads == 'in':
            found[f'{prefix}/kernel'] = kernel.reshape(len(kernel), 2, -1)
            found[f'{prefix}/bias'] = bias.detach().numpy().reshape(2, -1)
        else:
            found[f'{prefix}/kernel'] = kernel.reshape(2, -1, kernel.shape[1]) if heads == 'out' else kernel
            found[f'{prefix}/bias'] = bias.detach().numpy()

    def norm(prefix, layer):
        found[f'{prefix}/scale'], found[f'{prefix}/bias'] = layer.weight.detach().numpy(), layer.bias.detach().numpy()

    def block(prefix, norms, in_proj, out, fc):
        norm(f'{prefix}LayerNorm_0', norms[0])
        norm(f'{prefix}LayerNorm_1', norms[1])
        parts = zip(('query', 'key', 'value'), in_proj[0].chunk(3), in_proj[1].chunk(3), strict=True)
        for name, weight, bias in parts:
            put(f'{prefix}MultiHeadDotProductAttention_0/{name}', (weight, bias), 'in')
        put(f'{prefix}MultiHeadDotProductAttention_0/out', out, 'out')
        for i, layer in enumerate(fc):
            put(f'{prefix}MlpBlock_0/Dense_{i}', layer)

    trunk, text = model.visual.trunk, model.text
    convolution = trunk.patch_embed.proj
    found['img/embedding/kernel'] = convolution.weight.detach().permute(2, 3, 1, 0).numpy()
    found['img/embedding/bias'] = convolution.bias.detach().numpy()
    found['img/pos_embedding'] = trunk.pos_embed.detach().numpy()
    for i, b in enumerate(trunk.blocks):
        qkv, fc = (b.attn.qkv.weight, b.attn.qkv.bias), (b.mlp.fc1, b.mlp.fc2)
        block(f'img/Transformer/encoderblock_{i}/', (b.norm1, b.norm2), qkv, b.attn.proj, fc)
    norm('img/Transformer/encoder_norm', trunk.norm)
    pool, head = trunk.attn_pool, 'img/MAPHead_0/'
    found[f'{head}probe'] = pool.latent.detach().numpy()
    (key, value), (key_bias, value_bias) = pool.kv.weight.chunk(2), pool.kv.bias.chunk(2)
    for name, part in (('query', pool.q), ('key', (key, key_bias)), ('value', (value, value_bias))):
        put(f'{head}MultiHeadDotProductAttention_0/{name}', part, 'in')
    put(f'{head}MultiHeadDotProductAttention_0/out', pool.proj, 'out')
    norm(f'{head}LayerNorm_0', pool.norm)
    put(f'{head}MlpBlock_0/Dense_0', pool.mlp.fc1)
    put(f'{head}MlpBlock_0/Dense_1', pool.mlp.fc2)
    found['txt/Embed_0/embedding'] = text.token_embedding.weight.detach().numpy()
    found['txt/pos_embedding'] = text.positional_embedding.detach()[None].numpy()
    for i, b in enumerate(text.transformer.resblocks):
        qkv, fc = (b.attn.in_proj_weight, b.attn.in_proj_bias), (b.mlp.c_fc, b.mlp.c_proj)
        block(f'txt/Encoder_0/encoderblock_{i}/', (b.ln_1, b.ln_2), qkv, b.attn.out_proj, fc)
    norm('txt/Encoder_0/encoder_norm', text.ln_final)
    put('txt/head', text.text_projection)
    found['b'], found['t'] = (
        getattr(model, name).detach().reshape(1).numpy() for name in ('logit_bias', 'logit_scale')
    )
    return {f'params/{key}': np.array(value) for key, value in found.items()}


def test_a_siglip_of_big_vision_loads_whole_and_one_side_at_a_time(siglip, tmp_path):
    path, wanted = str(tmp_path / 'siglip.npz'), siglip.state_dict()
    np.savez(path, **big_vision(siglip))
    for found in (load_clip(SIGLIP, path), load_text(SIGLIP, path)):
        for key, value in found.state_dict().items():
            assert torch.equal(value, wanted[key]), key
    tower = CLIPTower(SIGLIP, path).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(tower.encode(images, ('global',)).global_, siglip.encode_image(images))


def test_big_vision_weights_of_another_architecture_are_told(siglip, tmp_path):
    path = str(tmp_path / 'siglip.npz')
    arrays = big_vision(siglip)
    del arrays['params/img/MAPHead_0/probe']
    np.savez(path, **arrays)
    with pytest.raises(CheckpointError, match='SigLIP of big_vision.*MAPHead_0/probe'):
        load_clip(SIGLIP, path)
    np.savez(path, **big_vision(siglip))
    with pytest.raises(CheckpointError, match='a SigLIP of big_vision, and .* has other towers'):
        load_clip('tiny-vit', path)


def test_arrays_of_objects_are_refused(tmp_path):
    path = tmp_path / 'objects.npz'
    np.savez(path, weight=np.array([dict(a=1)], dtype=object))
    with pytest.raises(CheckpointError, match='Object arrays cannot be loaded'):
        read_state_dict(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CheckpointError):
        read_state_dict(path)


def test_files_of_tips_are_renamed():
    table, cls = torch.randn(1, 5, 4), torch.randn(1, 1, 4)
    found = converted(
        {
            'cls_token': cls,
            'pos_embed': table,
            'register_tokens': torch.ones(1, 1, 4),
            'mask_token': torch.ones(1, 4),
            'blocks.0.mlp.w12.weight': torch.ones(8, 4),
            'blocks.0.mlp.w3.weight': torch.ones(4, 4),
        }
    )
    assert set(found) == {
        f'visual.trunk.{key}'
        for key in ('cls_token', 'pos_embed', 'reg_token', 'blocks.0.mlp.fc1.weight', 'blocks.0.mlp.fc2.weight')
    }
    assert torch.equal(found['visual.trunk.cls_token'], cls + table[:, :1])
    assert torch.equal(found['visual.trunk.pos_embed'], table[:, 1:])


def test_what_tips_has_not_is_told():
    with pytest.raises(ConfigError, match='come one by one, in files of their own'):
        load_clip('TIPSv2-B-14')
    config = dict(
        ARCHITECTURES['TIPSv2-B-14'], text_cfg=dict(ARCHITECTURES['TIPSv2-B-14']['text_cfg'], layers=1, vocab_size=10)
    )
    from vlm_dense.clip.text_tower import TextTower

    tower = TextTower(config)
    assert not tower.kind.shares and tower.context_length == 64 and tower.embed_dim == 768
    with pytest.raises(ConfigError, match='SentencePieceTokenizer'):
        tower.tokenize(['a'])
