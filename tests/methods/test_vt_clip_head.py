"""VT-CLIP: chunks and variants change nothing, training can start at CLIP, and what it refuses."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from methods.test_adapters import build
from methods.test_calip_head import features

from vlm_dense.classification import ClsDataSample
from vlm_dense.clip.image_tower import ImageFeatures
from vlm_dense.errors import ConfigError

HEAD = dict(type='vlm_dense.VTCLIP', num_heads=2, num_layers=2)


def gradients(model, found: ImageFeatures) -> list[torch.Tensor]:
    samples = [ClsDataSample().set_label(label % 3) for label in range(len(found.global_))]
    model.zero_grad()
    model.parse_losses(model(found, samples, mode='loss'))[0].backward()
    return [p.grad.clone() for p in model.head.parameters()]


def test_chunks_change_neither_logits_nor_gradients():
    found = features(7)
    whole, parts = build(head=HEAD), build(head=dict(HEAD, chunk_size=3))
    parts.head.load_state_dict(whole.head.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(parts(found), whole(found))
    for one, other in zip(gradients(whole.train(), found), gradients(parts.train(), found), strict=True):
        torch.testing.assert_close(one, other)


def test_variants_do_not_see_each_other_and_images_may_have_texts_of_their_own():
    head, found = build(head=HEAD).head, features(4)
    several = F.normalize(torch.randn(2, 3, 16), dim=-1)
    logits = head.logits(found, several[None], torch.tensor(5.0))
    assert logits.shape == (4, 2, 3)
    for variant in (0, 1):
        torch.testing.assert_close(logits[:, variant], head.logits(found, several[variant], torch.tensor(5.0)))
    each = F.normalize(torch.randn(4, 3, 16), dim=-1)
    logits = head.logits(found, each, torch.tensor(5.0))
    for image in range(4):
        alone = head.logits(found[image : image + 1], each[image], torch.tensor(5.0))
        torch.testing.assert_close(logits[image : image + 1], alone)


def test_training_can_start_at_clip_and_leaves_it():
    found = features(6)
    model, plain = build(head=dict(HEAD, zero_init=True)), build()
    with torch.no_grad():
        torch.testing.assert_close(model(found), plain(found))
    assert any(grad.abs().max() > 0 for grad in gradients(model.train(), found))
    with torch.no_grad():
        assert not torch.allclose(build(head=HEAD)(found), plain(found))


@pytest.mark.parametrize('option', [dict(norm_first=True), dict(ratio=0.5), dict(num_layers=1)])
def test_every_option_changes_the_logits(option):
    found = features(5)
    with torch.no_grad():
        assert not torch.allclose(build(head=HEAD | option)(found), build(head=HEAD)(found))


def test_dropout_acts_in_training_only():
    model, found = build(head=dict(HEAD, dropout=0.5)), features(5)
    text = F.normalize(torch.randn(3, 16), dim=-1)
    logits = [model.train().head.logits(found, text, torch.tensor(1.0)) for _ in range(2)]
    assert not torch.allclose(*logits)
    assert torch.equal(*[model.eval().head.logits(found, text, torch.tensor(1.0)) for _ in range(2)])


def test_numbers_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match='num_heads divide the 16 channels of the tower; found 2, 3 and 32'):
        build(head=dict(HEAD, num_heads=3))
    with pytest.raises(ConfigError, match='at least 1'):
        build(head=dict(HEAD, num_layers=0))
    with pytest.raises(ConfigError, match='zero_init needs a layer norm at the end'):
        build(head=dict(HEAD, norm_first=True, zero_init=True))


def test_state_of_another_tower_is_refused_with_both_shapes():
    state = build(head=HEAD).head.state_dict()
    with pytest.raises(RuntimeError, match=r'torch.Size\(\[64, 16\]\).*torch.Size\(\[24, 16\]\)'):
        build(head=dict(HEAD, ffn_channels=24)).head.load_state_dict(state)
