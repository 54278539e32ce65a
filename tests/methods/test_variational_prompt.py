"""Variational prompts: samples, their mixture, the divergence, official checkpoints."""

from __future__ import annotations

import math

import pytest
import torch
from methods.small import D, build_prompt, classifier, text_tower
from torch.distributions import Normal, kl_divergence

from vlm_dense.classification import ClsDataSample
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError

NAMES = ['sea_lion', 'cat', 'old tram']


@pytest.fixture(scope='module')
def tower():
    return text_tower()


def variational(tower, **kwargs):
    return build_prompt(tower, 'VariationalPrompt', NAMES, **dict(dict(num_samples=3), **kwargs))


@pytest.mark.parametrize('conditional', [False, True])
def test_each_sample_shifts_all_vectors_by_the_same(tower, conditional):
    prompt = variational(tower, conditional=conditional).train()
    drawn, features = torch.randn(3, 32), 2 * torch.randn(2, D)
    prompt.draw = lambda: drawn
    found = prompt(tower, features if conditional else None)
    assert found.shape == ((2, 3, 3, D) if conditional else (3, 3, D))
    mean, log_variance = prompt.posterior(features)
    plain = build_prompt(tower, 'CoOpPrompt', NAMES, words='a photo of a')
    for b in range(2):
        for v in range(3):
            row = b if conditional else 0
            wanted = plain.encode(tower, prompt.ctx + mean[row] + drawn[v] * log_variance[row].exp().sqrt())
            torch.testing.assert_close(found[b, v] if conditional else found[v], wanted, rtol=1e-4, atol=1e-4)


def test_the_mixture_is_one_of_probabilities_for_images_and_pixels(tower):
    prompt = variational(tower)
    for shape in ((2, 3, 4), (2, 3, 4, 5, 6)):
        logits = 5 * torch.randn(shape)
        wanted = logits.softmax(dim=2).mean(dim=1)
        torch.testing.assert_close(prompt.reduce_variants(logits).exp(), wanted)


@pytest.mark.parametrize('conditional', [False, True])
def test_the_divergence_is_that_of_normal_distributions(tower, conditional):
    prompt, features = variational(tower, conditional=conditional, kl_weight=0.5).train(), torch.randn(4, D)
    if not conditional:
        prompt.mean.data.normal_()
    text = prompt(tower, features if conditional else None)
    mean, log_variance = prompt.posterior(features)
    wanted = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(prompt.losses(text)['loss_kl'], 0.5 * wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('conditional', [False, True])
def test_an_evaluation_can_be_repeated_and_a_training_draws_again(conditional):
    model = classifier(NAMES, dict(type='vlm_dense.VariationalPrompt', num_samples=3, conditional=conditional))
    image = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        once = model(image)
        again = model.train().eval()(image.expand(3, -1, -1, -1))
        torch.testing.assert_close(again, once.expand(3, -1), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(once.logsumexp(dim=1), torch.zeros(1), rtol=0, atol=1e-5)
        model.text_prompt.seed = 1
        assert not torch.allclose(model.train().eval()(image), once, atol=1e-3)
        samples = [ClsDataSample().set_label(0)]
        losses = [model.train()(image, samples, mode='loss')['loss_ce'].item() for _ in range(2)]
        assert losses[0] != pytest.approx(losses[1], abs=1e-4)


def test_some_classes_are_those_among_all(tower):
    for conditional in (False, True):
        prompt = variational(tower, conditional=conditional).eval()
        features = torch.randn(2, D) if conditional else None
        some = prompt(tower, features, classes=torch.tensor([2, 0]))
        torch.testing.assert_close(some, prompt(tower, features)[..., [2, 0], :], rtol=1e-4, atol=1e-5)


def test_the_initial_distribution_is_the_papers(tower):
    prompt = variational(tower)
    assert not prompt.mean.any() and prompt.log_variance.min() >= 0 and prompt.log_variance.max() < 1
    assert math.isclose(prompt.log_variance.mean(), 0.5, abs_tol=0.2)
    assert prompt.kl_weight == 0.001 and prompt.num_contexts == 4


def release(path, prompt, conditional: bool) -> tuple[str, dict]:
    """A file as the official trainer saves it."""
    weights = {}
    for name, value in prompt.state_dict().items():
        kind, _, rest = name.partition('.')
        if conditional and kind != 'ctx':
            name = f'meta_net.weight_{kind}.module.{rest}'
        else:
            name = dict(mean='mean_posterior', log_variance='std_posterior').get(name, name)
        weights[name] = torch.randn_like(value)
    both = dict(token_prefix=torch.zeros(3, 1, 32), token_suffix=torch.zeros(3, 72, 32))
    torch.save(dict(state_dict={**weights, **both}, epoch=10), path)
    return str(path), weights


@pytest.mark.parametrize('conditional', [False, True])
def test_official_checkpoints_load(tower, tmp_path, conditional):
    prompt = variational(tower, conditional=conditional)
    path, weights = release(tmp_path / 'model.pth.tar-10', prompt, conditional)
    loaded = variational(tower, conditional=conditional, pretrained=path).state_dict()
    assert len(loaded) == len(weights) == (13 if conditional else 3)
    for value, wanted in zip(loaded.values(), weights.values(), strict=True):
        assert torch.equal(value, wanted)
    with pytest.raises(CheckpointError, match='missing: .*mean'):
        variational(tower, conditional=not conditional, pretrained=path)


def test_less_than_one_sample_is_refused(tower):
    with pytest.raises(ConfigError, match='num_samples must be at least 1, found 0'):
        variational(tower, num_samples=0)


def test_a_context_longer_than_fits_is_explained(tower):
    with pytest.raises(ClassNamesError, match='VariationalPrompt: .*The context takes 74 of them'):
        variational(tower, words=None, num_contexts=74)
