"""CALIP: the attention against loops, what the search chooses, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from methods.test_adapters import NAMES, build
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from vlm_dense.classification import ClsDataSample
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.errors import ConfigError, DataError

CALIP = dict(type='vlm_dense.CALIP', search_max=(2.0, 3.0), search_step=(6, 5))


def features(count: int = 7) -> ImageFeatures:
    return ImageFeatures(global_=torch.randn(count, 16), dense=torch.randn(count, 16, 2, 3))


def loader(found: ImageFeatures, labels: list[int], batch_size: int = 3) -> DataLoader:
    rows = zip(found.global_, found.dense, labels, strict=True)
    samples = [
        dict(inputs=dict(global_=g, dense=d), data_samples=ClsDataSample().set_label(label)) for g, d, label in rows
    ]
    return DataLoader(samples, batch_size, collate_fn=pseudo_collate)


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def by_hand(found: ImageFeatures, text: torch.Tensor, beta2: float, beta3: float) -> torch.Tensor:
    """The equations of the paper, image by image and class by class."""
    logits = torch.zeros(len(found.global_), len(text))
    for b, (g, dense) in enumerate(zip(unit(found.global_), found.dense, strict=True)):
        positions = unit(dense.flatten(1).T)
        affinity = 2 * positions @ text.T
        gathered = torch.stack([row.softmax(0) @ text for row in affinity])
        pooled = gathered.mean(0) + gathered.max(0).values
        for k, t in enumerate(text):
            of_class = affinity[:, k].softmax(0) @ positions
            logits[b, k] = g @ t + beta2 * (g @ of_class) + beta3 * (pooled @ t)
    return logits


def test_logits_are_those_of_the_equations_and_weigh_variants_alike():
    head, found = build(head=dict(CALIP, betas=(0.7, 0.3))).head, features()
    text = unit(torch.randn(2, 3, 16))
    scale = torch.tensor(20.0)
    torch.testing.assert_close(head.logits(found, text[0], scale), 20 * by_hand(found, text[0], 0.7, 0.3))
    several = head.logits(found, text[None], scale)
    assert several.shape == (7, 2, 3)
    for variant in (0, 1):
        torch.testing.assert_close(several[:, variant], head.logits(found, text[variant], scale))
    each = unit(torch.randn(7, 3, 16))
    one = head.logits(found, each, scale)
    for b in range(7):
        torch.testing.assert_close(one[b : b + 1], head.logits(found[b : b + 1], each[b], scale))


def test_the_search_finds_the_first_best_pair_and_does_not_depend_on_batches():
    model, found = build(head=CALIP), features(40)
    labels = torch.randint(3, (40,)).tolist()
    with torch.no_grad():
        text = unit(model.text_side.class_embeddings())
        best = (-1, None)
        for i in range(6):
            for j in range(5):
                betas = 0.001 + i * 1.999 / 6, 0.001 + j * 2.999 / 5
                right = int((by_hand(found, text, *betas).argmax(1) == torch.tensor(labels)).sum())
                best = max(best, (right, betas), key=lambda pair: pair[0])
    for batch_size in (3, 40):
        model.head.prepare(model, dict(search=loader(found, labels, batch_size)))
        assert model.head.betas.tolist() == pytest.approx(best[1])
        assert float(model.head.search_accuracy.max()) == pytest.approx(100 * best[0] / 40)
    again = build(head=CALIP)
    again.head.load_state_dict(model.head.state_dict())
    with torch.no_grad():
        assert torch.equal(again(found), model(found))


def test_a_search_without_a_right_answer_leaves_clip_as_it_was():
    model, found = build(head=dict(CALIP, search_max=(0.002, 0.002))), features(6)
    with torch.no_grad():
        cosine, *_ = model.head.terms(found, unit(model.text_side.class_embeddings()))
        model.head.prepare(model, dict(search=loader(found, ((cosine.argmax(1) + 1) % 3).tolist())))
        assert model.head.betas.tolist() == [0, 0]
        torch.testing.assert_close(model(found), model.text_encoder.logit_scale.exp() * cosine)


def test_a_search_grid_without_validation_data_is_refused():
    model = build(head=CALIP)
    with pytest.raises(ConfigError, match="CALIP reads the data 'search'; the data of PrepareHook are \\[\\]"):
        model.head.prepare(model, {})
    with pytest.raises(ConfigError, match='CALIP has not seen its data. Add .*PrepareHook'):
        model(features())
    with pytest.raises(DataError, match='has no image'):
        model.head.prepare(model, dict(search=loader(features(0), [])))


def test_given_betas_are_not_searched():
    model = build(head=dict(type='vlm_dense.CALIP', betas=(0.5, 0.1)))
    model.head.prepare(model, {})
    assert model.head.betas.tolist() == [0.5, 0.1]
    with pytest.raises(ConfigError, match='betas are given, so that nothing is searched'):
        model.head.prepare(model, dict(search=loader(features(), [0] * 7)))
    with pytest.raises(ConfigError, match='a number for beta2 and one for beta3'):
        build(head=dict(type='vlm_dense.CALIP', search_step=(0, 200)))


def test_prompts_of_several_texts_are_not_searched():
    model = build(NAMES, text_prompt=dict(type='vlm_dense.CoCoOpPrompt', num_contexts=2, reduction=2), head=CALIP)
    with pytest.raises(ConfigError, match='one text a class, CoCoOpPrompt gives more'):
        model.head.prepare(model, dict(search=loader(features(), [0] * 7)))
