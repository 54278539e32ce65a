"""Classes in sentences, captions as data sets, and what cannot be read."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_texts import WordTokenizer  # noqa: F401  (registers it)
from tiny_towers import vit

from vlm_dense.classification import CaptionDataset, CaptionFileDataset, captions
from vlm_dense.classification.captions import ClassFinder, plurals, read_synonyms
from vlm_dense.classification.datasets import SETS
from vlm_dense.clip.tokenizer import tokenize
from vlm_dense.contract.text_side import TextSide
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import DATASETS, MODELS

NAMES = ['dog', 'hot_dog', 'knife', 'bus', 'person', 'giraffe', 'cherry', 'potato', 'stop sign']


@pytest.mark.parametrize(
    'caption,expected',
    [
        ('Two dogs, a hot dog.', ['dog', 'hot_dog']),
        ('HOT DOGS!', ['hot_dog']),
        ('a hotdog', ['hot_dog']),
        ('knives and buses near people', ['knife', 'bus', 'person']),
        ('three giraffes eat cherries and potatoes', ['giraffe', 'cherry', 'potato']),
        ('a stopsign; stop signs', ['stop sign']),
        ('dogma, busy, knifelike', []),
        ('', []),
    ],
)
def test_names_are_found_in_singular_and_plural_and_long_ones_first(caption, expected):
    finder = ClassFinder(read_synonyms(None, NAMES))
    assert [NAMES[label] for label in finder.find(caption)] == expected


def test_synonyms_are_names_too():
    finder = ClassFinder(read_synonyms(dict(dog=['puppy'], hot_dog=['frank furter']), NAMES))
    assert finder.find('puppies and frankfurters') == [0, 1]
    assert finder.find('a woman') == []


def test_plurals_that_are_names_of_another_class_stay_what_they_are():
    assert ClassFinder([['glass'], ['glasses']]).find('a pair of glasses') == [1]
    assert plurals('woman') >= {'women'} and plurals('person') == {'people'}


@pytest.mark.parametrize('name', ['coco2014', 'voc2007'])
def test_lists_of_synonyms_belong_to_their_sets_and_name_each_thing_once(name):
    classes = SETS[name]['classes']
    finder = ClassFinder(read_synonyms(name, classes))
    for label, words in enumerate(classes):
        assert finder.find(f'a photo of a {words}.') == [label]


def test_lists_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="'x' is a name of two classes, 0 and 1"):
        ClassFinder([['x'], ['y', 'x']])
    with pytest.raises(ConfigError, match='class 1 has no name'):
        ClassFinder([['x'], []])
    with pytest.raises(ConfigError, match='coco2041.*coco2014'):
        read_synonyms('coco2041', NAMES)
    with pytest.raises(ConfigError, match='dogs.*dog'):
        read_synonyms(dict(dogs=['x']), NAMES)
    (tmp_path / 'a.json').write_text('[1]')
    with pytest.raises(DataError, match='a.json is no list of synonyms; expected'):
        read_synonyms(str(tmp_path / 'a.json'), NAMES)
    (tmp_path / 'a.json').write_text('{')
    with pytest.raises(DataError, match='a.json is no JSON'):
        read_synonyms(str(tmp_path / 'a.json'), NAMES)


# --- data sets --------------------------------------------------------------------------------------------------------

LINES = ['A dog runs.', 'Nothing to see.', ' ', 'people on a bus']


def file_of(folder, suffix: str) -> dict:
    path = folder / f'captions{suffix}'
    entries = [dict(image_id=1, id=number, caption=line) for number, line in enumerate(LINES)]
    path.write_text(
        {
            '.json': json.dumps(dict(annotations=entries)),
            '.jsonl': '\n'.join(json.dumps(entry) for entry in entries) + '\n\n',
            '.txt': '\n'.join(LINES),
        }[suffix]
    )
    return dict(type='vlm_dense.CaptionFileDataset', data_root=str(folder), ann_file=path.name, classes=NAMES)


@pytest.mark.parametrize('suffix', ['.json', '.jsonl', '.txt'])
def test_captions_without_class_are_left_out_and_counted(suffix, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(captions, 'print_log', lambda text, **_: said.append(text))
    data = CaptionDataset(file_of(tmp_path, suffix), templates=['a {}.'], extra=['one {}.', 'two {}.'])
    assert data.skipped == 1 and len(data) == 2 + 3 * len(NAMES)
    assert '2 of 3 captions name classes, 1 are left out; 27 sentences about single classes are added' in said[0]
    assert 'no caption names 6 of 9 classes: hot_dog, knife' in said[1]
    sample = data[1]
    assert torch.equal(sample['inputs'], tokenize(None, ['people on a bus'])[0])
    assert sample['data_samples'].gt_labels.tolist() == [0, 0, 0, 1, 1, 0, 0, 0, 0]
    assert data.get_data_info(5)['caption'] == 'one hot dog.' and data[5]['data_samples'].gt_labels.argmax() == 1


def test_by_default_the_sentences_are_those_of_the_paper(tmp_path):
    data = CaptionDataset(file_of(tmp_path, '.txt'))
    about = [data.get_data_info(2 + i) for i in range(89)]
    assert [info['caption'] for info in about[:9]] == ['a photo of a dog.'] * 9 and about[88]['gt_labels'] == [0]
    assert len(data) == 2 + 89 * len(NAMES)


def test_one_caption_of_each_image_is_drawn_once_for_all(tmp_path):
    entries = [
        dict(image_id=image, id=5 * image + n, caption=f'dog {image} {n}') for image in range(8) for n in range(5)
    ]
    cfg = file_of(tmp_path, '.json')
    (tmp_path / 'captions.json').write_text(json.dumps(dict(annotations=entries)))
    found = {seed: [info['caption'] for info in DATASETS.build(dict(cfg, one_an_image=seed))] for seed in (None, 0, 1)}
    assert len(found[None]) == 40 and [caption.split()[1] for caption in found[0]] == list('01234567')
    assert found[0] != found[1] and found[0] == [i['caption'] for i in DATASETS.build(dict(cfg, one_an_image=0))]


def test_sentences_may_have_other_names_than_the_classes(tmp_path):
    names = [f'thing {k}' for k in range(len(NAMES))]
    data = CaptionDataset(file_of(tmp_path, '.txt'), templates=['a {}.'], extra=[], names=names)
    assert data.get_data_info(2)['caption'] == 'a thing 0.' and data.metainfo['classes'] == tuple(NAMES)
    with pytest.raises(ConfigError, match='9 classes in other words, found 1'):
        CaptionDataset(file_of(tmp_path, '.txt'), names=['x'])


def test_drawn_scenes_have_captions():
    scenes = dict(type='vlm_dense.ShapesDataset', num_scenes=20, label='colour', num_objects=(1, 2))
    data = CaptionDataset(dict(scenes, pipeline=[dict(type='vlm_dense.DrawScene')]), templates=[], extra=[])
    assert len(data) + data.skipped == 20
    for index in range(len(data)):
        info, colours = data.get_data_info(index), data.metainfo['classes']
        assert info['gt_labels'] == [i for i, colour in enumerate(colours) if colour in info['caption'].split()]


def test_long_captions_are_cut(tmp_path):
    (tmp_path / 'long.txt').write_text('dog ' * 100)
    data = CaptionDataset(dict(file_of(tmp_path, '.txt'), ann_file='long.txt'), templates=[], extra=[])
    assert data[0]['inputs'].shape == (77,) and data[0]['inputs'][-1] == 49407


def test_files_that_hold_no_captions_are_refused(tmp_path):
    def read(content: str, name: str = 'x.json'):
        (tmp_path / name).write_text(content)
        return CaptionFileDataset(name, NAMES, data_root=str(tmp_path))

    with pytest.raises(DataError, match='holds no captions as COCO'):
        read('{"images": []}')
    with pytest.raises(DataError, match='holds no captions as COCO'):
        read('[1, 2]')
    with pytest.raises(DataError, match='is no JSON'):
        read('{')
    with pytest.raises(DataError, match='has no caption'):
        read('\n', 'x.txt')
    with pytest.raises(DataError, match='There is no file'):
        CaptionFileDataset('absent.json', NAMES, data_root=str(tmp_path))
    with pytest.raises(ConfigError, match='voc2008.*voc2007'):
        CaptionFileDataset('x.txt', 'voc2008', data_root=str(tmp_path))
    with pytest.raises(DataError, match='None of the 1 captions of CaptionFileDataset names one of 9 classes'):
        (tmp_path / 'y.txt').write_text('nothing')
        CaptionDataset(dict(file_of(tmp_path, '.txt'), ann_file='y.txt'))
    with pytest.raises(DataError, match='sample 0 of ShapesDataset has no caption'):
        CaptionDataset(dict(type='vlm_dense.ShapesDataset', num_scenes=2, pipeline=[]))


def test_captions_of_another_tokenizer_are_made_and_told_from_others(tmp_path):
    arch = vit(text=dict(context_length=24, vocab_size=56, pool_type='eos', eos_id=2))
    words = dict(type='WordTokenizer', start=(0,), end=(2,), padding=1)
    data = CaptionDataset(file_of(tmp_path, '.txt'), templates=[], arch=arch, tokenizer=words)
    ids = torch.stack([data[i]['inputs'] for i in (0, 1)])
    tower = MODELS.build(dict(type='vlm_dense.TextTower', arch=arch, tokenizer=words))
    assert ids.shape == (2, 24) and torch.equal(ids[0], tower.tokenize([data.get_data_info(0)['caption']])[0])
    prompt = MODELS.build(dict(type='vlm_dense.CoOpPrompt', num_contexts=2, class_names=NAMES, text_tower=tower))
    side = TextSide(tower, prompt)
    features = side.encode_captions(ids)
    torch.testing.assert_close(features.global_, tower.encode_tokens(ids), rtol=1e-4, atol=1e-5)
    assert torch.equal(features.padding, (ids == 1)[:, : features.padding.shape[1]])
    with pytest.raises(ConfigError, match=r'begin with the tokens \[49406\].*with \[0\].*CaptionDataset'):
        side.encode_captions(CaptionDataset(file_of(tmp_path, '.txt'), templates=[])[0]['inputs'][None])
