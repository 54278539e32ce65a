"""ProTeCt beyond the official figures: its losses against a model of full logits, odd trees, what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tiny_towers import vit

from vlm_dense.classification import ClsDataSample, Taxonomy
from vlm_dense.contract.roles import Step
from vlm_dense.errors import ClassNamesError, ConfigError, DataError
from vlm_dense.registry import MODELS

TREE = dict(animal=['bird', 'cat'], bird=['eagle', 'sparrow'], tool=['saw'])
LEAVES = ['cat', 'eagle', 'saw', 'sparrow', 'rock']
ARCH = vit(image_size=16, layers=1)
PROMPTS = [dict(type='vlm_dense.CoOpPrompt', num_contexts=2), dict(type='vlm_dense.MaPLePrompt', depth=1)]


def build(**kwargs):
    return MODELS.build(dict(type='vlm_dense.ProTeCtLoss', **dict(dict(taxonomy=TREE, classes=LEAVES), **kwargs)))


def samples(*labels: int) -> list:
    return [ClsDataSample().set_label(label) for label in labels]


def step(loss, scores: torch.Tensor, data: list) -> Step:
    """Of a model that encodes what the loss asks for."""
    classes = loss.classes(data)
    return Step(None, None, None, scores[:, classes], torch.tensor(1.0), data, loss.tree.nodes, classes)


def by_hand(scores: dict, names: list[str], wanted: str) -> torch.Tensor:
    """Cross-entropy of one image over these names."""
    row = torch.stack([scores[name] for name in names])
    return row.logsumexp(0) - scores[wanted]


def test_the_node_centric_loss_is_a_mean_of_means():
    loss = build(weight=2.0)
    scores = torch.randn(3, len(loss.tree.nodes))
    found = loss(step(loss, scores, samples(1, 3, 0)))  # eagle, sparrow, cat
    eagle, sparrow, cat = (dict(zip(loss.tree.nodes, row, strict=True)) for row in scores)
    top = ['animal', 'tool', 'rock']
    root = sum(by_hand(image, top, 'animal') for image in (eagle, sparrow, cat)) / 3
    below = ['bird', 'cat']
    animal = by_hand(eagle, below, 'bird') + by_hand(sparrow, below, 'bird') + by_hand(cat, below, 'cat')
    birds = ['eagle', 'sparrow']
    bird = by_hand(eagle, birds, 'eagle') + by_hand(sparrow, birds, 'sparrow')
    torch.testing.assert_close(found['loss_ncl'], 2 * (root + animal / 3 + bird / 2) / 3)


def test_a_parent_of_one_costs_nothing():
    loss = build()
    scores = torch.randn(1, len(loss.tree.nodes))
    found = loss(step(loss, scores, samples(2)))['loss_ncl']
    names = dict(zip(loss.tree.nodes, scores[0], strict=True))
    torch.testing.assert_close(found, 0.5 * by_hand(names, ['animal', 'tool', 'rock'], 'tool') / 2)


@pytest.mark.parametrize(
    'beta, names', [(0.0, ['cat', 'eagle', 'sparrow', 'saw', 'rock']), (1.0, ['animal', 'tool', 'rock'])]
)
def test_the_cut_is_at_the_leaves_or_below_the_root(beta, names):
    loss = build(beta=beta)
    scores = torch.randn(1, len(loss.tree.nodes))
    found = loss(step(loss, scores, samples(1)))['loss_dtl']
    own = dict(zip(loss.tree.nodes, scores[0], strict=True))
    torch.testing.assert_close(found, by_hand(own, names, 'eagle' if beta == 0 else 'animal'))


def test_each_parent_stays_with_probability_beta():
    loss = build(beta=0.3)
    kept = torch.tensor([loss.draw() for _ in range(4000)]).float().mean(0)
    torch.testing.assert_close(kept, torch.full((len(loss.tree.inner),), 0.7), rtol=0, atol=0.03)


def test_without_weight_the_second_loss_is_only_told():
    loss = build(beta=0.0, weight=0.0)
    scores = torch.randn(4, len(loss.tree.nodes), requires_grad=True)
    data = samples(0, 1, 2, 4)
    found = loss(step(loss, scores, data))
    assert set(found) == {'loss_dtl', 'ncl'} and not found['ncl'].requires_grad
    leaves = F.cross_entropy(scores[:, torch.from_numpy(loss.tree.leaves)], torch.tensor([0, 1, 2, 4]))
    torch.testing.assert_close(found['loss_dtl'], leaves)


def test_only_nodes_that_a_step_needs_are_encoded():
    loss = build(beta=1.0)
    nodes = loss.tree.nodes
    assert {nodes[i] for i in loss.classes(samples(4))} == {'animal', 'tool', 'rock'}
    assert {nodes[i] for i in loss.classes(samples(0))} == {'animal', 'tool', 'rock', 'bird', 'cat'}
    assert {nodes[i] for i in build(beta=0.0).classes(samples(2))} == {'animal', 'tool', *LEAVES}


@pytest.mark.parametrize('prompt', PROMPTS, ids=['coop', 'maple'])
def test_any_prompt_learns(prompt):
    torch.manual_seed(0)
    model = MODELS.build(
        dict(
            type='vlm_dense.CLIPClassifier',
            backbone=dict(type='vlm_dense.CLIPViT', arch=ARCH, head=True),
            text_encoder=dict(type='vlm_dense.TextTower', arch=ARCH),
            text_prompt=prompt,
            loss=dict(type='vlm_dense.ProTeCtLoss', taxonomy=TREE, classes=LEAVES, weight=1.0),
            class_names=list(Taxonomy(TREE, LEAVES).nodes),
        )
    ).train()
    total, values = model.parse_losses(model(torch.randn(3, 3, 16, 16), samples(0, 1, 4), mode='loss'))
    torch.testing.assert_close(total, values['loss_dtl'] + values['loss_ncl'])
    total.backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in model.text_prompt.parameters())


def test_trees_and_models_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match='in a circle are'):
        build(taxonomy=dict(a=['b'], b=['a']))
    with pytest.raises(ConfigError, match=r"leaves that are no class \['sparrow'\]"):
        build(classes=[name for name in LEAVES if name != 'sparrow'])
    with pytest.raises(ConfigError, match='beta is a probability, from 0 to 1, found 2'):
        build(beta=2)
    loss = build()
    with pytest.raises(ConfigError, match='the model has 5 classes .* expected the 8 nodes'):
        loss(Step(None, None, None, torch.zeros(1, 5), None, samples(0), tuple(LEAVES), loss.classes(samples(0))))
    with pytest.raises(DataError, match='has the label 5; expected 0 to 4 for 5 classes'):
        loss.classes(samples(5))
    with pytest.raises(ClassNamesError, match='The context takes 74'):
        MODELS.build(
            dict(type='vlm_dense.CoOpPrompt', num_contexts=74),
            default_args=dict(
                class_names=loss.tree.nodes, text_tower=MODELS.build(dict(type='vlm_dense.TextTower', arch=ARCH))
            ),
        )
