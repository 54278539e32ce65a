"""TCP: the inserted tokens against a plain pass, sub-lists of classes, and what is refused."""

from __future__ import annotations

import pytest
import torch
from methods.small import build_prompt, text_tower

from vlm_dense.errors import ConfigError

NAMES = ['circle', 'big red star', 'square']


def prompt(tower, **options):
    return build_prompt(tower, 'TCPPrompt', NAMES, **dict(dict(block=1, num_contexts=3, num_class_tokens=2), **options))


@pytest.mark.parametrize('place', [0, 1])
@torch.no_grad()
def test_tokens_replace_hidden_states_before_their_block(place):
    tower = text_tower()
    made = prompt(tower, prompt_template='X X X {}, a drawing.', block=place)
    found, tokens = made(tower), made.class_tokens(tower)
    for name, own, expected in zip(NAMES, tokens, found, strict=True):
        ids = tower.tokenize([f'X X X {name}, a drawing.'])
        x = tower.embed(ids) + tower.positional_embedding
        x[0, 1:4] = made.ctx + tower.positional_embedding[1:4]
        for number, block in enumerate(tower.transformer.resblocks):
            if number == place:
                x[0, 1:3] = own
            x = block(x, causal=True)
        plain = tower.ln_final(x[0, tower.find_eot(ids)[0]]) @ tower.text_projection
        torch.testing.assert_close(expected, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('chunk', [1, 128])
def test_some_classes_are_those_of_all(chunk):
    tower = text_tower()
    tower.chunk_size = chunk
    made, some = prompt(tower), torch.tensor([2, 0])
    torch.testing.assert_close(made(tower, classes=some), made(tower)[some], rtol=1e-4, atol=1e-4)
    made(tower).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in made.parameters())


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        (dict(block=-1), 'block'),
        (dict(block=2), 'block'),
        (dict(num_class_tokens=0), 'num_class_tokens'),
        (dict(template='a photo'), 'template'),
        (dict(prompt_template='X X {} {}'), 'template'),
        (dict(words='photo'), 'cannot begin'),
        (dict(num_contexts=9), 'num_contexts'),
    ],
)
def test_options_that_cannot_work_are_refused(options, word):
    with pytest.raises(ConfigError, match=word):
        prompt(text_tower(), **options)
