"""verify: weights that are right pass, and each kind of wrong tower is refused with the reason."""

from __future__ import annotations

import json
import re

import families
import pytest
import torch
from safetensors.torch import save_file
from tiny_towers import TEXT, resnet, vit
from torch import nn

from vlm_dense.cli import verify as program
from vlm_dense.clip.loading import load_clip
from vlm_dense.inference.verify import build_reference, build_towers, verify

ARCHS = dict(  # heads of 64 channels, as OpenAI's layout means
    vit=dict(vit(embed_dim=64, text=dict(width=64, heads=1, layers=2), image_size=48, patch_size=16), quick_gelu=True),
    resnet=dict(
        resnet(embed_dim=32, text=dict(width=64, heads=1, layers=2), image_size=64, head_width=64), quick_gelu=True
    ),
)
ARCHS['vit']['vision_cfg'].update(width=64, layers=3, head_width=64)


def openai_file(kind: str, folder) -> tuple[dict, str]:
    """An architecture, and a file of random weights in OpenAI's layout, with its numbers beside them."""
    torch.manual_seed(0)
    clip = load_clip(ARCHS[kind])
    for parameter in clip.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    side, length = ARCHS[kind]['vision_cfg']['image_size'], clip.positional_embedding.shape[0]
    numbers = dict(input_resolution=side, context_length=length, vocab_size=clip.token_embedding.weight.shape[0])
    weights = clip.state_dict() | {name: torch.tensor(value) for name, value in numbers.items()}
    torch.save(weights, folder / f'{kind}.pt')
    arch = {key: value for key, value in ARCHS[kind].items() if key != 'quick_gelu'}  # the file says it
    return arch, str(folder / f'{kind}.pt')


@pytest.mark.parametrize('arch', ['tiny-vit', 'tiny-rn'])
def test_the_bundled_towers_pass(arch, tmp_path, capsys):
    assert program.main(['--arch', arch, '--out', str(tmp_path / 'out'), '--json', str(tmp_path / 'a.json')]) == 0
    text, told = capsys.readouterr().out, json.loads((tmp_path / 'a.json').read_text())
    assert 'WRONG' not in text and 'All is as it must be.' in text and 'MaskCLIP painted:' in text
    names = [check['name'] for check in told['checks']]
    assert len(names) == (8 if arch == 'tiny-vit' else 6) and 'the map of a window of one patch' in names
    assert told['right'] > 2 * told['images'] / 8  # twice what chance gives
    assert len(told['saved']) == 2 and (tmp_path / 'out' / 'vis').is_dir()


@pytest.mark.parametrize('kind', ARCHS)
def test_a_file_in_openais_layout_passes(kind, tmp_path):
    source = openai_file(kind, tmp_path)
    found = list(verify(*build_towers(*source), build_reference(*source)))
    assert all(each.passed and not each.reason for each in found), found


CHECKS = dict(  # of 8: at another size; of a block alone; of one patch
    clipa=8,
    coca=8,
    siglip=8,
    pe=8,
    pe_bare=8,
    eva02=8,
    eva02_post=8,
    timm_vit_norm=8,
    vitamin=6,  # open_clip's own has one size
    convnext_mlp=7,
    fastvit=7,
    swin=5,
)


def of_family(family: str, folder, monkeypatch) -> tuple[dict, str]:
    """A small architecture of a family, and a file of random weights."""
    config = families.small(family, monkeypatch)
    if family == 'coca':
        config['text_cfg'].update(vocab_size=49408)
    else:  # a tokenizer that is there
        config.update(text_cfg=dict(TEXT, layers=1, width=16, heads=1))
    torch.manual_seed(0)
    clip = load_clip(config)
    for parameter in clip.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    path = folder / 'weights.safetensors'
    save_file({key: value.contiguous() for key, value in clip.state_dict().items()}, path)
    return config, str(path)


@pytest.mark.parametrize('family', CHECKS)
def test_towers_of_every_family_pass(family, tmp_path, monkeypatch):
    source = of_family(family, tmp_path, monkeypatch)
    found = list(verify(*build_towers(*source), build_reference(*source)))
    assert all(each.passed for each in found), found
    assert len(found) == CHECKS[family], [each.name for each in found]


def test_a_timm_tower_with_other_values_is_refused(tmp_path, monkeypatch):
    source = of_family('siglip', tmp_path, monkeypatch)
    image, text = build_towers(*source)
    pool = image.trunk.attn_pool
    pool.kv.weight.data = pool.kv.weight.data.roll(1, 0)
    found = {each.name: each for each in verify(image, text, build_reference(*source))}
    assert not found['image features'].passed and not found['the map of a window of one patch'].passed
    assert 'trunk.attn_pool.kv.weight is permuted' in found['image features'].reason


def wrong_activation(image, text) -> None:
    for tower in (image, text):
        for block in tower.transformer.resblocks:
            block.mlp.gelu = nn.GELU()


def permuted_positions(image, text) -> None:
    order = torch.randperm(len(image.positional_embedding), generator=torch.Generator().manual_seed(1))
    image.positional_embedding.data = image.positional_embedding.data[order]


def transposed_projection(image, text) -> None:
    text.text_projection.data = text.text_projection.data.mT.contiguous()


def other_weights(image, text) -> None:
    text.ln_final.weight.data += 1


WRONG = {
    wrong_activation: (['image features', 'text features'], 'the blocks have GELU, these weights .* with QuickGELU'),
    permuted_positions: (['image features'], r'positional_embedding is permuted: \d+ of 10 rows'),
    transposed_projection: (['text features'], 'text_projection is transposed'),
    other_weights: (['text features'], 'ln_final.weight is not that of the weights: 100 %'),
}


@pytest.mark.parametrize('damage', WRONG, ids=lambda damage: damage.__name__)
def test_a_wrong_tower_is_refused_with_the_reason(damage, tmp_path):
    arch, path = openai_file('vit', tmp_path)
    image, text = build_towers(arch, path)
    damage(image, text)
    found = {each.name: each for each in verify(image, text, build_reference(arch, path))}
    names, reason = WRONG[damage]
    for name in names:
        assert not found[name].passed
        assert re.search(reason, found[name].reason), found[name]


def test_the_program_says_what_is_wrong(monkeypatch, capsys, tmp_path):
    def broken(arch, pretrained):
        image, text = build_towers(arch, pretrained)
        permuted_positions(image, text)
        return image, text

    monkeypatch.setattr('vlm_dense.inference.verify.build_towers', broken)
    assert program.main(['--out', str(tmp_path)]) == 1
    text = capsys.readouterr().out
    assert 'WRONG image features' in text and 'is permuted' in text and 'Something is wrong' in text
    assert 'MaskCLIP painted' not in text
