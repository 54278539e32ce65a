"""The page under several clients at once, and under hostile ones; the script beside this file does it for a minute."""

from __future__ import annotations

import pytest

pytest.importorskip('gradio')
from faults.demo_clients import hammer, hostile, served  # noqa: E402


@pytest.fixture(scope='module')
def page():
    with served(concurrency=4) as running:
        yield running


def test_answers_of_clients_at_the_same_time_are_those_of_one_alone(page):
    found = hammer(page[0], clients=6, seconds=1)
    assert found['answers'] >= 6 and found['wrong'] == 0


def test_hostile_requests_are_refused_and_tell_nothing(page):
    url, folder = page
    replies = hostile(url, folder)
    assert len(replies) > 50
    assert not [name for name, reply in replies.items() if not reply]
    for kind in ('as an upload', 'without meta', 'as a stream'):  # whether something is there is not told
        there, absent = (replies[f'{name}, {kind}'] for name in ('an image of the server', 'no such file'))
        assert there.replace('secret', 'absent') == absent
    assert not [reply for reply in replies.values() if 'root:' in reply or 'PATH=' in reply]
