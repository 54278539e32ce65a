"""CLIP's tokens, and no text cut without a word."""

from __future__ import annotations

import open_clip
import pytest
import torch

from vlm_dense.clip import tokenize
from vlm_dense.errors import ClassNamesError, ConfigError

TEXTS = ['dog', 'a photo of a  Dog.', 'traffic_light', '']


def test_ids_are_those_of_open_clip_for_texts_that_fit():
    assert torch.equal(tokenize('RN50', TEXTS), open_clip.tokenize(TEXTS))
    assert tokenize('RN50', TEXTS).dtype == torch.long


def test_start_text_and_end_fill_exactly_the_context():
    assert tokenize(None, ['dog'], context_length=3).tolist() == [[49406, 1929, 49407]]


def test_an_underscore_is_a_token_of_its_own():
    assert not torch.equal(tokenize(None, ['traffic_light']), tokenize(None, ['traffic light']))


def test_a_text_that_is_too_long_is_refused_by_name_count_and_limit():
    with pytest.raises(ClassNamesError, match=r"'traffic light' has 4 tokens.* takes 3"):
        tokenize(None, ['dog', 'traffic light'], context_length=3)


def test_truncation_on_request_ends_with_the_end_token():
    ids = tokenize(None, ['traffic light'], context_length=3, truncate=True)
    assert torch.equal(ids, open_clip.tokenize(['traffic light'], context_length=3))
    assert ids[0, -1] == 49407


def test_no_texts_give_no_rows():
    assert tokenize(None, [], context_length=5).shape == (0, 5)


@pytest.mark.parametrize('arch', ['ViT-B-16-SigLIP', {'text_cfg': {'hf_tokenizer_name': 'roberta-base'}}])
def test_an_architecture_with_another_tokenizer_is_refused(arch):
    with pytest.raises(ConfigError, match='tokenizer of its own'):
        tokenize(arch, ['dog'])


def test_one_text_is_not_taken_for_a_list_of_letters():
    with pytest.raises(TypeError, match='list of texts'):
        tokenize(None, 'dog')
