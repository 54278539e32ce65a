"""ProGrad: what becomes of a gradient, by hand; the wrapper, and what is refused without it."""

from __future__ import annotations

import pytest
import torch
from methods.small import build_prompt, classifier, text_tower
from mmengine.optim import OptimWrapper

from vlm_dense.classification import ClsDataSample
from vlm_dense.errors import ConfigError
from vlm_dense.methods.text_prompts import ProGradOptimWrapper

NAMES = ['circle', 'star', 'square']


def prompt(**options):
    return build_prompt(text_tower(), 'ProGradPrompt', NAMES, **options)


def along(gradient: torch.Tensor, direction: torch.Tensor, **options) -> torch.Tensor:
    made = prompt(num_contexts=5, **options)
    made.direction = direction
    return made.align(gradient)


def test_what_points_against_the_direction_is_removed():
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([0.0, -3.0])
    assert torch.allclose(along(a, b), torch.tensor([1.0, 0.0]))
    assert torch.allclose(along(a, b, strength=0.5), torch.tensor([1.0, 1.0]))
    assert torch.equal(along(a, -b), a)
    assert torch.equal(along(a, 0 * b), a)


def test_the_first_vectors_are_0_and_the_last_ones_words():
    tower = text_tower()
    made = build_prompt(tower, 'ProGradPrompt', NAMES, template='a type of pet, a photo of a {}.', num_contexts=10)
    ids = tower.tokenize(['a type of pet, a photo of a'])
    assert not made.ctx[:2].any() and torch.equal(made.ctx[2:].detach(), tower.embed(ids[0, 1:9]))


@pytest.mark.parametrize('template', ['{} texture.', 'a blurry photo of the small {}, from far away.', '{}'])
def test_random_vectors_bind_the_sentence_to_nothing(template):
    tower = text_tower()
    made = build_prompt(tower, 'ProGradPrompt', NAMES, template=template, from_template=False, num_contexts=2)
    expected = torch.nn.functional.normalize(tower.encode_tokens(tower.tokenize([template.format(n) for n in NAMES])))
    assert torch.allclose(made.reference(tower), expected)
    with pytest.raises(ConfigError, match='from_template=False'):
        build_prompt(tower, 'ProGradPrompt', NAMES, template=template, num_contexts=2)


@pytest.mark.parametrize('accumulated', [1, 2])
def test_the_wrapper_aligns_the_sum_of_all_gradients_of_a_step(accumulated):
    own = dict(type='vlm_dense.ProGradPrompt', num_contexts=4)
    model = classifier(NAMES, own).train()
    optimizer = torch.optim.SGD([model.text_prompt.ctx], lr=1.0)
    wrapper = ProGradOptimWrapper(optimizer, accumulative_counts=accumulated)
    model.text_prompt.meet_optim_wrapper(wrapper)
    seen, align = [], model.text_prompt.align
    model.text_prompt.align = lambda gradient: seen.append(align(gradient)) or seen[-1]
    for step in range(2):
        images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(step))
        found = model(images, [ClsDataSample().set_label(1) for _ in images], mode='loss')
        before = model.text_prompt.ctx.detach().clone()
        with wrapper.optim_context(model):
            wrapper.update_params(model.parse_losses(found)[0])
        if (step + 1) % accumulated == 0:
            assert torch.allclose(model.text_prompt.ctx, before - seen[-1], atol=1e-6)
            assert model.text_prompt.direction is None
    assert len(seen) == 2 // accumulated


def test_an_optimiser_that_does_not_align_is_refused():
    model = classifier(NAMES, dict(type='vlm_dense.ProGradPrompt', num_contexts=4))
    with pytest.raises(ConfigError, match='ProGradOptimWrapper'):
        model.text_prompt.meet_optim_wrapper(OptimWrapper(torch.optim.SGD([model.text_prompt.ctx], lr=1.0)))


@pytest.mark.parametrize('options', [dict(template='a photo'), dict(num_contexts=3)])
def test_templates_that_do_not_fit_are_refused(options):
    with pytest.raises(ConfigError, match='template'):
        prompt(**options)
