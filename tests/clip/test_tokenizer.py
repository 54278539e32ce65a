"""CLIP's tokens, and no text cut without a word."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import huggingface_hub
import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer

from vlm_dense.clip import model_config, tokenize
from vlm_dense.clip.tokenizer import build_tokenizer
from vlm_dense.errors import ClassNamesError, MissingLibraryError, WeightsNotFoundError

needs_transformers = pytest.mark.skipif(find_spec('transformers') is None, reason='the extra hf is missing')

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


@pytest.mark.skipif(find_spec('transformers') is not None, reason='transformers is installed')
@pytest.mark.parametrize('arch', ['ViT-B-16-SigLIP', {'text_cfg': {'hf_tokenizer_name': 'timm/ViT-B-16-SigLIP'}}])
def test_without_transformers_its_tokenizers_say_what_to_install(arch):
    with pytest.raises(MissingLibraryError, match='timm/ViT-B-16-SigLIP needs transformers.*extra hf'):
        tokenize(arch, ['dog'])


@needs_transformers
def test_a_tokenizer_that_is_not_there_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setenv('HF_HUB_OFFLINE', '1')
    monkeypatch.setattr(huggingface_hub.constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(WeightsNotFoundError, match="(?s)hf download timm/ViT-B-16-SigLIP.*tokenizer='/path"):
        build_tokenizer('ViT-B-16-SigLIP')
    with pytest.raises(WeightsNotFoundError, match='There is no such folder.*tokenizer_config.json'):
        build_tokenizer('ViT-B-16-SigLIP', str(tmp_path / 'absent'))
    with pytest.raises(WeightsNotFoundError, match='holds no tokenizer.*tokenizer_config.json'):
        build_tokenizer('ViT-B-16-SigLIP', tmp_path)


@needs_transformers
@pytest.mark.parametrize(
    ('arch', 'special', 'wanted'),
    [
        ('ViT-B-16-SigLIP', dict(eos_token='</s>', pad_token='</s>'), ([], [1], 1)),
        ('ViT-B-16-SigLIP2', dict(eos_token='</s>', pad_token='<pad>'), ([], [1], 0)),
        ('ViT-L-14-CLIPA', dict(cls_token='[CLS]', sep_token='[SEP]', pad_token='<pad>'), ([2], [0], 0)),
        ('ViT-H-14-worldwide', dict(bos_token='<s>', eos_token='</s>', pad_token='<pad>'), ([4], [1], 0)),
    ],
)
def test_a_folder_of_a_tokenizer_gives_the_ids_of_open_clip(tmp_path, arch, special, wanted):
    folder, start, end = _tokenizer_on_disk(tmp_path, special), *wanted[:2]
    tokens = build_tokenizer(arch, folder)
    assert ([*tokens.start], [*tokens.end], tokens.padding) == tuple(wanted)
    ids = tokens(['A photo of a  Dog.', 'dog'], 8)
    theirs = HFTokenizer(str(folder), context_length=8, **_options(arch))
    assert torch.equal(ids, theirs(['A photo of a  Dog.', 'dog']))
    own = tokens.own('dog')
    assert ids[1].tolist() == [*start, *own, *end, *[wanted[2]] * (8 - len(start) - len(end) - len(own))]
    with pytest.raises(ClassNamesError, match='the text context takes 3'):
        tokens(['a photo of a dog'], 3)
    assert torch.equal(tokens(['a photo of a dog'], 4, truncate=True), theirs(['a photo of a dog'], 4))


def _options(arch: str) -> dict:
    return dict(model_config(arch)['text_cfg'].get('tokenizer_kwargs') or {})


def _tokenizer_on_disk(folder, special: dict):
    """A folder of transformers with a tokenizer of words."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ['<pad>', '</s>', '[CLS]', '[SEP]', '<s>', '<unk>', 'a', 'photo', 'of', 'dog', '.']
    vocabulary = {word: index for index, word in enumerate(words)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token='<unk>'))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    front = special.get('cls_token') or special.get('bos_token')
    behind = special.get('sep_token') or special['eos_token']
    used = [(word, vocabulary[word]) for word in (front, behind) if word]
    made.post_processor = processors.TemplateProcessing(
        single=' '.join(filter(None, (front, '$A', behind))), special_tokens=used
    )
    PreTrainedTokenizerFast(tokenizer_object=made, unk_token='<unk>', **special).save_pretrained(folder)
    return folder


def test_copies_of_a_tower_share_its_tokenizer():
    tokens = build_tokenizer()
    assert copy.deepcopy(tokens) is tokens


def test_one_text_is_not_taken_for_a_list_of_letters():
    with pytest.raises(TypeError, match='list of texts'):
        tokenize(None, 'dog')
