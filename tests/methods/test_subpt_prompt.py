"""SubPT: the loss of novel names, the subspace, and what its hook and optimiser wrapper refuse."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from methods.small import build_prompt, text_tower
from mmengine.optim import OptimWrapper

from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError
from vlm_dense.methods.text_prompts.subpt import (
    SubspaceHook,
    SubspaceOptimWrapper,
    principal_directions,
    project,
)
from vlm_dense.vocabulary.templates import read_templates

NAMES, NOVEL = ['sea_lion', 'cat'], ['owl', 'old_tram', 'cat']


@pytest.fixture(scope='module')
def tower():
    return text_tower()


def subpt(tower, names=NAMES, **kwargs):
    return build_prompt(tower, 'SubPTPrompt', names, **dict(dict(num_contexts=4, novel_names=NOVEL), **kwargs))


def test_novel_names_are_held_at_their_hand_written_prompts(tower):
    prompt = subpt(tower, weight=3.0, template='itap of a {}.').train()
    classes = prompt(tower)
    learned = build_prompt(tower, 'CoOpPrompt', NOVEL, num_contexts=4)
    learned.load_state_dict(prompt.state_dict())
    written = tower.encode_tokens(tower.tokenize(['itap of a owl.', 'itap of a old tram.', 'itap of a cat.']))
    wanted = 3 * (1 - F.cosine_similarity(learned(tower), written).mean())
    torch.testing.assert_close(prompt.losses(classes)['loss_nfl'], wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(classes, prompt.eval()(tower), rtol=1e-4, atol=1e-5)
    assert set(prompt.state_dict()) == {'ctx'}


def test_without_novel_names_it_is_coop(tower):
    assert subpt(tower, novel_names=[]).train().losses(subpt(tower, novel_names=[]).train()(tower)) == {}


def test_the_trajectory_is_that_of_coop_with_the_loss(tower):
    runner = Runner(subpt(tower).train())
    SubspaceHook(early=5, rank=2).before_train(runner)
    assert runner.optim_wrapper.subspaces == []  # the stage of the points
    assert runner.model.losses(runner.model(tower))['loss_nfl'] > 0


def test_several_sentences_are_averaged_as_zero_shot_clip_averages_them(tower):
    written = build_prompt(tower, 'ZeroShotPrompt', NOVEL, templates='imagenet7', separators='_')(tower)
    torch.testing.assert_close(subpt(tower, template='imagenet7').targets(tower), written)
    torch.testing.assert_close(subpt(tower, template=list(read_templates('imagenet7'))).targets(tower), written)


def test_directions_are_those_of_the_covariance():
    points = torch.randn(7, 12) * torch.linspace(3, 0.1, 12)
    directions, shares = principal_directions(points, 3)
    values, vectors = torch.linalg.eigh(torch.cov(points.double().T, correction=0))
    best = vectors[:, -3:].float()
    torch.testing.assert_close(directions.T @ directions, best @ best.T, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(shares, (values.flip(0)[:3] / values.sum()).float(), rtol=1e-4, atol=1e-5)


def test_a_projected_gradient_lies_in_the_subspace_and_stays_there():
    subspace, _ = principal_directions(torch.randn(6, 8), 4)
    gradient = torch.randn(2, 4)
    projected = project(gradient, subspace)
    torch.testing.assert_close(project(projected, subspace), projected)
    torch.testing.assert_close(subspace @ projected.flatten(), subspace @ gradient.flatten())
    rest = (gradient - projected).flatten()
    torch.testing.assert_close(subspace @ rest, torch.zeros(4), rtol=0, atol=1e-6)


def test_steps_stay_in_the_subspace_with_momentum_clipping_and_accumulation():
    vectors, other = torch.nn.Parameter(torch.zeros(2, 4)), torch.nn.Parameter(torch.zeros(3))
    subspace, _ = principal_directions(torch.randn(4, 8), 2)
    wrapper = SubspaceOptimWrapper(
        torch.optim.SGD([vectors, other], lr=0.1, momentum=0.9), clip_grad=dict(max_norm=1.0), accumulative_counts=2
    )
    wrapper.subspaces = [(vectors, subspace)]
    wrapper.initialize_count_status(torch.nn.Identity(), 0, 6)
    weights = torch.randn(8)
    for _ in range(6):
        wrapper.update_params((vectors.flatten() @ weights) + other.sum())
    moved = vectors.detach().flatten()
    assert moved.norm() > 0.1 and other.abs().min() > 0.1
    torch.testing.assert_close(project(moved, subspace), moved)


# --- what is refused --------------------------------------------------------------------------------------------------


class Runner:
    """As much of a run as the hook looks at."""

    max_epochs, max_iters, _resume = 12, 48, True

    def __init__(self, model, wrapper=None):
        self.model = model
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.optim_wrapper = (wrapper or SubspaceOptimWrapper)(optimizer)


@pytest.mark.parametrize(
    'options',
    [{}, dict(early=5), dict(rank=2), dict(early=5, rank=5), dict(early=5, rank=0)],
)
def test_a_rank_that_the_points_do_not_have_is_refused(options):
    with pytest.raises(ConfigError, match='rank must be at least 1 and below the number of points'):
        SubspaceHook(**options)


def test_options_without_effect_are_refused(tmp_path):
    torch.save(torch.eye(128)[:3], tmp_path / 'U.pt')
    with pytest.raises(ConfigError, match='change nothing when subspace is a file'):
        SubspaceHook(early=5, rank=2, subspace=str(tmp_path / 'U.pt'))
    with pytest.raises(ConfigError, match='interval must be at least 1'):
        SubspaceHook(early=5, rank=2, interval=0)


def test_hook_wrapper_and_prompt_need_each_other(tower):
    hook = SubspaceHook(early=5, rank=2)
    with pytest.raises(ConfigError, match='gradients of OptimWrapper are not projected.*SubspaceOptimWrapper'):
        hook.before_train(Runner(subpt(tower), OptimWrapper))
    with pytest.raises(ConfigError, match='expected one SubPTPrompt in the model, found 0'):
        hook.before_train(Runner(build_prompt(tower, 'CoOpPrompt', NAMES)))
    with pytest.raises(ConfigError, match='knows no subspace'):
        Runner(subpt(tower)).optim_wrapper.step()
    with pytest.raises(ConfigError, match='trajectory takes 12 epochs and the training has 12'):
        SubspaceHook(early=12, rank=2).before_train(Runner(subpt(tower)))
    with pytest.raises(ConfigError, match='trajectory takes 50 iterations and the training has 48'):
        SubspaceHook(early=5, rank=2, interval=10).before_train(Runner(subpt(tower)))


def test_a_checkpoint_without_trajectory_is_refused(tower):
    with pytest.raises(CheckpointError, match='has no trajectory'):
        SubspaceHook(early=5, rank=2).after_load_checkpoint(Runner(subpt(tower)), dict(state_dict={}))


def test_the_subspace_of_the_release_confines_from_the_first_step(tower, tmp_path):
    torch.save(torch.eye(128)[:3].half(), tmp_path / 'U.pt')
    runner = Runner(subpt(tower))
    SubspaceHook(subspace=str(tmp_path / 'U.pt')).before_train(runner)
    runner.model.ctx.grad = torch.ones(4, 32)
    before = runner.model.ctx.detach().clone()
    runner.optim_wrapper.step()
    moved = (runner.model.ctx - before).flatten().nonzero().flatten().tolist()
    assert moved == [0, 1, 2]
    torch.save(torch.eye(64), tmp_path / 'U.pt')
    with pytest.raises(CheckpointError, match='expected a subspace of 128 columns'):
        SubspaceHook(subspace=str(tmp_path / 'U.pt')).before_train(runner)


def test_a_template_needs_a_place_for_the_name(tower):
    with pytest.raises(ConfigError, match='needs a {}'):
        subpt(tower, template='a photo.')


def test_a_context_longer_than_fits_is_explained(tower):
    with pytest.raises(ClassNamesError, match='SubPTPrompt: .*The context takes 74 of them'):
        subpt(tower, words=None, num_contexts=74)
