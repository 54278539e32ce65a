"""Sentences about classes: the files that hold them, the prompts made of them, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from methods.small import build_prompt, classifier, text_tower

from vlm_dense.contract.sentences import read_texts, texts_of_classes
from vlm_dense.datasets import CamVidDataset
from vlm_dense.datasets.shapes import shapes_metainfo
from vlm_dense.errors import ClassNamesError, ConfigError, DataError

SENTENCES = {
    'traffic light': ['Three lamps above the road.', 'A red lamp.', 'A green lamp at a crossing.'],
    'cat': ['\nA small animal that purrs.'],
    'never asked for': ['Something else.'],
}


@pytest.fixture(scope='module')
def tower():
    return text_tower()


def unit(tower, texts):
    return F.normalize(tower.encode_tokens(tower.tokenize(texts)), dim=-1)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'content, message',
    [
        ('{"cat": ["A cat."]', 'no JSON in UTF-8'),
        ('["A cat."]', 'Expected one JSON object, .* found a list'),
        ('{}', 'found an empty object'),
        ('{"cat": "A cat."}', "the class 'cat' has a str instead of a list"),
        ('{"cat": {"a": "A cat."}}', "the class 'cat' has a dict instead of a list"),
        ('{"cat": [["A cat."]]}', r"the list of the class 'cat' has the entry \['A cat.'\]"),
        ('{"cat": ["A cat."], "cat": ["Another."]}', "the class 'cat' twice"),
    ],
)
def test_another_layout_is_named(tmp_path, content, message):
    path = tmp_path / 'texts.json'
    path.write_text(content)
    with pytest.raises(DataError, match=message) as error:
        read_texts(str(path), 'sentences')
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match='no file .*absent.json.*describe_classes'):
        read_texts(str(tmp_path / 'absent.json'), 'sentences')
    with pytest.raises(ConfigError, match="'shape' is not in the sentences of vlm_dense. Did you mean 'shapes'"):
        read_texts('shape', 'sentences')
    (tmp_path / 'latin.json').write_bytes('{"café": ["x"]}'.encode('latin-1'))
    with pytest.raises(DataError, match='no JSON in UTF-8'):
        read_texts(str(tmp_path / 'latin.json'), 'sentences')


def test_classes_are_found_by_name_in_any_order_and_the_rest_is_ignored():
    found = texts_of_classes(SENTENCES, ['cat', 'traffic_light'])
    assert found == [('cat', tuple(SENTENCES['cat'])), ('traffic light', tuple(SENTENCES['traffic light']))]
    assert texts_of_classes({'tree_frog': ['x']}, ['tree frog'])[0][0] == 'tree_frog'
    with pytest.raises(DataError, match="1 of 2 classes have no texts: 'Cat'.*Did you mean 'cat'.*letter case"):
        texts_of_classes(SENTENCES, ['Cat', 'traffic light'])


@pytest.mark.parametrize('folder', ['sentences', 'descriptors'])
def test_the_package_describes_shapes_and_camvid(folder):
    shapes = [shapes_metainfo(label, background=True)['classes'] for label in ('shape', 'colour', 'shape_colour')]
    for name, classes in (('shapes', sum(shapes, ())), ('camvid', CamVidDataset.METAINFO['classes'])):
        texts = read_texts(name, folder)
        assert set(texts) == set(classes)
        assert all(2 <= len(each) == len(set(each)) for each in texts.values())
        every = [text for each in texts.values() for text in each]
        assert all(text[0].isupper() and text.endswith('.') for text in every) == (folder == 'sentences')


# --- CuPL -------------------------------------------------------------------------------------------------------------


def test_each_sentence_of_a_class_weighs_the_same(tower, tmp_path):
    path = tmp_path / 'texts.json'
    path.write_text(json.dumps(SENTENCES))
    names, templates = ['cat', 'traffic_light'], ['a photo of a {}.', 'itap of a {}.']
    found = build_prompt(tower, 'CuPLPrompt', names, sentences=str(path), templates=templates)(tower)
    for row, key in zip(found, ('cat', 'traffic light'), strict=True):
        every = unit(tower, [*(t.format(key) for t in templates), *SENTENCES[key]])
        torch.testing.assert_close(row, F.normalize(every.mean(dim=0), dim=0))
    assert build_prompt(tower, 'CuPLPrompt', names, sentences=SENTENCES).state_dict() == {}


def test_a_class_text_with_underscores_has_spaces_in_templates(tower):
    (first, second) = (
        build_prompt(tower, 'CuPLPrompt', ['red_circle'], sentences={key: ['It is round.']}, templates=['a {}.'])
        for key in ('red_circle', 'red circle')
    )
    assert torch.equal(first.token_ids, second.token_ids)


def test_some_classes_are_those_among_all(tower):
    for kind, options in (
        ('CuPLPrompt', dict(sentences=SENTENCES)),
        ('VCDPrompt', dict(descriptors=SENTENCES)),
        ('VCDPrompt', dict(descriptors=SENTENCES, aggregate='max')),
    ):
        prompt = build_prompt(tower, kind, list(SENTENCES), **options)
        found = prompt(tower, classes=torch.tensor([2, 0]))
        torch.testing.assert_close(found, prompt(tower)[..., [2, 0], :])


def test_long_sentences_are_cut_and_counted(tower, monkeypatch):
    told = []
    monkeypatch.setattr('vlm_dense.methods.text_prompts.cupl.print_log', lambda text, **kwargs: told.append(text))
    long = 'A cat ' + 'that sleeps and ' * 40 + 'purrs.'
    prompt = build_prompt(tower, 'CuPLPrompt', ['cat'], sentences={'cat': [long, 'A cat.']})
    assert prompt.token_ids[0, -1] == tower.tokenize(['x']).max() and prompt.token_ids[1, -1] == 0
    assert len(told) == 1 and '1 of 2 sentences' in told[0]


@pytest.mark.parametrize(
    'texts, error, message',
    [
        ({'cat': []}, DataError, "class 'cat' has an empty list"),
        ({'cat': ['A cat.', ' \n']}, DataError, r"class 'cat' has the sentence ' \\n'"),
        ({'cat': ['a photo of a {}.']}, DataError, 'sentences with {} are templates'),
        ({'dog': ['A dog.']}, DataError, "1 of 1 classes have no texts: 'cat'"),
        ({'cat': 'A cat.'}, DataError, 'in the config: Expected one JSON object'),
    ],
)
def test_what_cupl_cannot_use_is_named(tower, texts, error, message):
    with pytest.raises(error, match=message):
        build_prompt(tower, 'CuPLPrompt', ['cat'], sentences=texts)


def test_a_template_without_place_and_no_classes_are_refused(tower):
    with pytest.raises(ConfigError, match='templates need one {}'):
        build_prompt(tower, 'CuPLPrompt', ['cat'], sentences=SENTENCES, templates=['a cat.'])
    with pytest.raises(ClassNamesError, match='at least one class'):
        build_prompt(tower, 'CuPLPrompt', [], sentences=SENTENCES)


# --- VCD --------------------------------------------------------------------------------------------------------------

DESCRIPTORS = {
    'tree_frog': ['a small animal', 'antlers', 'has eyes', 'often black', 'typically wet', 'may jump', 'canvas skin'],
    'corn field': ['used as food', 'tall plants'],
    'fog': [],
}
CLAUSES = {
    'tree frog': [
        'which is a small animal',
        'which is antlers',
        'which has eyes',
        'which often black',
        'which typically wet',
        'which may jump',
        'which canvas skin',
    ],
    'corn field': ['which is used as food', 'which has tall plants'],
    'fog': ['which has '],
}


def vcd(tower, names=tuple(DESCRIPTORS), texts=DESCRIPTORS, **kwargs):
    return build_prompt(tower, 'VCDPrompt', list(names), descriptors=texts, **kwargs)


def test_descriptors_become_sentences(tower):
    expected = {
        'prepend': lambda name, told: f'<{name}| {told}>',
        'append': lambda name, told: f'{told}| {name}',
        'none': lambda name, told: told,
    }
    texts = dict(prepend=dict(before='<', between='| ', after='>'), append=dict(between='| '), none={})
    for inclusion, wanted in expected.items():
        found = vcd(tower, inclusion=inclusion, **texts[inclusion]).sentences
        assert found == [[wanted(name, told) for told in clauses] for name, clauses in CLAUSES.items()]
    assert vcd(tower).sentences[2] == ['fog, which has ']
    plain = vcd(tower, clauses=False).sentences
    assert plain[1] == ['corn field, used as food', 'corn field, tall plants'] and plain[2] == ['fog, ']


def test_a_release_may_pair_its_entries_by_order(tower):
    names = ['missile', 'sunglass', 'haze']  # 'missile' is the name of another entry of the file
    texts = {'projectile': ['fast'], 'sunglasses': ['dark'], 'fog': ['grey']}
    assert vcd(tower, names, texts, by_order=True).sentences == [
        ['projectile, which has fast'],
        ['sunglasses, which has dark'],
        ['fog, which has grey'],
    ]
    with pytest.raises(DataError, match='by_order=True.*expected 2 entries, one a class, found 3'):
        vcd(tower, names[:2], texts, by_order=True)


def test_without_inclusion_the_phrase_is_the_sentence(tower):
    found = vcd(tower, ('corn field',), inclusion=None).sentences
    assert found == [['used as food', 'tall plants']]
    assert vcd(tower, ('corn field',), inclusion='none').sentences == [CLAUSES['corn field']]


@pytest.mark.parametrize('aggregate', ['mean', 'max', 'sum'])
def test_the_score_of_a_class_comes_from_the_cosines_of_its_descriptors(tower, aggregate):
    prompt = dict(type='vlm_dense.VCDPrompt', descriptors=DESCRIPTORS, aggregate=aggregate)
    model = classifier(DESCRIPTORS, prompt)
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        found = model(images) / model.text_encoder.logit_scale.exp()
        image = F.normalize(model.image_features(images).global_, dim=-1)
        for k, (name, clauses) in enumerate(CLAUSES.items()):
            cosines = image @ unit(model.text_encoder, [f'{name}, {told}' for told in clauses]).T
            wanted = cosines.amax(dim=1) if aggregate == 'max' else getattr(cosines, aggregate)(dim=1)
            torch.testing.assert_close(found[:, k], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    'options, error, message',
    [
        (dict(inclusion='front'), ConfigError, "'front' is not in the choices of inclusion. .*prepend"),
        (dict(aggregate='median'), ConfigError, "'median' is not in the choices of aggregate"),
        (dict(inclusion='append', after='.'), ConfigError, "inclusion='append' the text '.' has no place"),
        (dict(inclusion='none', between='; '), ConfigError, "inclusion='none' the text '; ' has no place"),
        (dict(inclusion='none', clauses=False), DataError, "class 'fog' has a sentence without a word"),
        (dict(names=['fog', 'mist']), DataError, "1 of 2 classes have no texts: 'mist'"),
        (dict(texts={'fog': ['x ' * 90]}, names=['fog']), ClassNamesError, 'Shorten it'),
        (dict(texts=['fog']), DataError, 'found a list'),
    ],
)
def test_what_vcd_cannot_use_is_named(tower, options, error, message):
    with pytest.raises(error, match=message):
        vcd(tower, **options)
