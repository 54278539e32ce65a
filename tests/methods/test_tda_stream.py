"""TDA: what goes into a cache, what it stands for, when it is emptied; one stream whatever the number of processes."""

from __future__ import annotations

import pytest
import torch
from engine.processes import in_processes
from methods.small import classifier

from vlm_dense.engine.runner.streams import StreamSampler
from vlm_dense.errors import ConfigError
from vlm_dense.methods.test_time import TDA
from vlm_dense.methods.test_time.tda import APPENDED, DROPPED, NOT_OFFERED, REPLACED, Cache, Seen


def streaming() -> torch.nn.Module:
    prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=('a photo of a {}.',))
    return classifier(['circle', 'star', 'square'], prompt, test_time=dict(type='vlm_dense.TDA'))


def seen(number: int, entropy: float, label: int = 0) -> Seen:
    return Seen(number, label, torch.eye(4)[number % 4], torch.tensor([0.5, 0.3, 0.2]), entropy)


def test_a_full_list_takes_what_is_surer_than_its_last_image_and_of_equals_keeps_the_older():
    cache = Cache(2, 1.0, 1.0)
    assert [cache.offer(seen(*each)) for each in [(0, 0.4), (1, 0.2), (2, 0.4), (3, 0.3), (4, 0.2)]] == [
        APPENDED,
        APPENDED,
        DROPPED,
        REPLACED,
        REPLACED,
    ]
    assert [item.number for item in cache.stored()] == [1, 4]


def test_evidence_is_that_of_the_formula():
    cache = Cache(3, 0.5, 2.0, mask=(0.2, 0.4))
    for number in range(3):
        cache.offer(seen(number, 0.1 * number))
    feature = torch.tensor([0.6, 0.8, 0.0, 0.0])
    weights = sum(torch.exp(-2 * (1 - torch.tensor(f))) for f in (0.6, 0.8, 0.0))
    torch.testing.assert_close(cache.evidence(feature), 0.5 * weights * torch.tensor([0.0, 1.0, 0.0]))


def test_only_middling_entropies_are_offered_to_the_negative_cache():
    cache = Cache(2, 1.0, 1.0, entropy=(0.2, 0.5))
    log = torch.log2(torch.tensor(3.0)).item()
    assert [cache.offer(seen(i, h * log)) for i, h in enumerate((0.19, 0.3, 0.51))] == [
        NOT_OFFERED,
        APPENDED,
        NOT_OFFERED,
    ]


def test_a_new_mode_begins_another_stream():
    model = streaming()
    images = torch.randn(5, 1, 3, 16, 16)
    with torch.no_grad():
        first, more = model(images), model(images)
        assert not torch.equal(first, more)
        assert torch.equal(model.eval()(images), first)


def test_the_images_of_a_stream_are_given_on_by_what_they_changed():
    model, other = (streaming() for _ in range(2))
    other.load_state_dict(model.state_dict())
    images = torch.randn(9, 1, 3, 16, 16)
    with torch.no_grad():
        model(images[:4])
        other.test_time.replay(model.test_time.changes())
        assert torch.equal(model(images[4:]), other(images[4:]))


@pytest.mark.parametrize(
    ('options', 'word'),
    [
        (dict(positive=None, negative=None), 'changes nothing'),
        (dict(positive=dict(capacity=0, alpha=1.0, beta=1.0)), 'capacity'),
        (dict(negative=dict(capacity=1, alpha=1.0, beta=1.0, mask=(0.5, 0.5))), 'mask'),
        (dict(class_names=['circle']), 'one class'),
        (dict(processes='all'), 'processes'),
    ],
)
def test_options_that_cannot_work_are_refused(options, word):
    with pytest.raises(ConfigError, match=word):
        TDA(**dict(dict(class_names=['circle', 'star']), **options))


def test_too_few_views_are_refused():
    with pytest.raises(ConfigError, match='keeps none'):
        TDA(['circle', 'star']).confident(torch.randn(9, 2))


def test_the_order_of_a_stream_follows_from_the_seed():
    one, other = (list(StreamSampler(range(9), shuffle=True, seed=seed)) for seed in (1, 2))
    assert sorted(one) == sorted(other) == list(range(9)) == list(StreamSampler(range(9))) and one != other


def one_stream(rank: int) -> None:
    assert list(StreamSampler(range(5))) == ([] if rank else list(range(5)))
    if rank:
        with pytest.raises(ConfigError, match='StreamSampler'):
            TDA(['circle', 'star']).check_process()
        TDA(['circle', 'star'], processes='each').check_process()
    else:
        TDA(['circle', 'star']).check_process()


def test_the_first_of_two_processes_has_the_stream():
    in_processes(2, one_stream)
