"""The published sets, each on a miniature of its folders made here; sampling, splits of classes, bad input."""

from __future__ import annotations

import json
import random
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from vlm_dense.classification.datasets import SETS, sentence_of
from vlm_dense.datasets.config_checks import check_data, class_names
from vlm_dense.errors import ConfigError, DataError
from vlm_dense.registry import DATASETS
from vlm_dense.vocabulary.templates import read_templates

LIST_SETS = [name for name, entry in SETS.items() if entry['layout'] == 'split']
# what the CoOp group's DATASETS page shows, so that a slip in the table is seen
FOLDERS = {
    'caltech101': ('caltech-101/split_zhou_Caltech101.json', 'caltech-101/101_ObjectCategories'),
    'oxford_pets': ('oxford_pets/split_zhou_OxfordPets.json', 'oxford_pets/images'),
    'stanford_cars': ('stanford_cars/split_zhou_StanfordCars.json', 'stanford_cars'),
    'oxford_flowers': ('oxford_flowers/split_zhou_OxfordFlowers.json', 'oxford_flowers/jpg'),
    'food101': ('food-101/split_zhou_Food101.json', 'food-101/images'),
    'sun397': ('sun397/split_zhou_SUN397.json', 'sun397/SUN397'),
    'dtd': ('dtd/split_zhou_DescribableTextures.json', 'dtd/images'),
    'eurosat': ('eurosat/split_zhou_EuroSAT.json', 'eurosat/2750'),
    'ucf101': ('ucf101/split_zhou_UCF101.json', 'ucf101/UCF-101-midframes'),
}
NAMES = ['Tiger_Shark', "St. Bernard's", 'café', 'Model S 2012', 'baklava']


def photo(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6, 3), 90, np.uint8)).save(path, 'JPEG')


def write_split(root: Path, name: str, counts=(7, 5, 3), names=NAMES, draw=True) -> dict:
    """A split file with ``counts`` images of each class in train, val and test, in shuffled order, and the images."""
    split, images = (root / place for place in FOLDERS[name])
    stream, parts = random.Random(0), {}
    for part, count in zip(('train', 'val', 'test'), counts, strict=True):
        entries = [[f'{n}/{part}_{i}.jpg', label, n] for label, n in enumerate(names) for i in range(count)]
        stream.shuffle(entries)
        parts[part] = entries
        if draw:
            for path, *_ in entries:
                photo(images / path)
    split.parent.mkdir(parents=True, exist_ok=True)
    split.write_text(json.dumps(parts, ensure_ascii=False), encoding='utf-8')
    return parts


def build(name: str, root: Path, split='train', **kwargs):
    return DATASETS.build(dict(type='vlm_dense.ImageSetDataset', name=name, data_root=str(root), split=split, **kwargs))


def listed(dataset, root: Path) -> list[tuple[str, int]]:
    """(path below the root, label) of each image."""
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [(str(Path(info['img_path']).relative_to(root)), info['gt_label']) for info in infos]


# --- layouts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', LIST_SETS)
def test_split_files_are_read_with_their_folders(name, tmp_path):
    parts = write_split(tmp_path, name, counts=(2, 1, 1))
    for part in ('train', 'val', 'test'):
        dataset = build(name, tmp_path, part, pipeline=[dict(type='vlm_dense.LoadImage')])
        wanted = [(f'{FOLDERS[name][1]}/{path}', label) for path, label, _ in parts[part]]
        assert listed(dataset, tmp_path) == wanted
        assert dataset[0]['img'].shape == (4, 6, 3)
    assert dataset.metainfo['classes'] == ('Tiger Shark', "St. Bernard's", 'café', 'Model S 2012', 'baklava')


def test_the_table_has_the_eleven_sets_and_the_variants_of_imagenet():
    of_coop = ('split', 'aircraft', 'folders')
    single = {name for name, entry in SETS.items() if entry['layout'] in of_coop}
    assert set(LIST_SETS) == set(FOLDERS)
    assert single == {
        *FOLDERS, 'fgvc_aircraft', 'imagenet', 'imagenetv2', 'imagenet-sketch', 'imagenet-a', 'imagenet-r'
    }  # fmt: skip


def test_aircraft_is_read_from_its_own_lists(tmp_path):
    root = tmp_path / 'fgvc_aircraft'
    (root / 'images').mkdir(parents=True)
    (root / 'variants.txt').write_text('A330-200\nBoeing 717\nF/A-18\n')
    for part, lines in dict(train=['1 F/A-18', '2 A330-200', '3 Boeing 717'], val=['4 Boeing 717'], test=[]).items():
        (root / f'images_variant_{part}.txt').write_text('\n'.join(lines) + '\n')
        for line in lines:
            photo(root / 'images' / f'{line[0]}.jpg')
    dataset = build('fgvc_aircraft', tmp_path)
    assert dataset.metainfo['classes'] == ('A330-200', 'Boeing 717', 'F/A-18')
    assert listed(dataset, tmp_path) == [(f'fgvc_aircraft/images/{i}.jpg', y) for i, y in ((1, 2), (2, 0), (3, 1))]
    assert listed(build('fgvc_aircraft', tmp_path, 'val'), tmp_path) == [('fgvc_aircraft/images/4.jpg', 1)]
    (root / 'images_variant_train.txt').write_text('1 Concorde\n')
    with pytest.raises(DataError, match="has the class 'Concorde', which variants.txt has not"):
        len(build('fgvc_aircraft', tmp_path))


WORDNET = {'n01': 'tench', 'n02': 'missile', 'n03': 'night snake', 'n04': 'missile', 'n05': 'hair-dryer'}


def write_imagenet(root: Path, per_class: int = 3) -> None:
    for wnid in WORDNET:
        for i in range(per_class):
            photo(root / f'imagenet/images/train/{wnid}/{wnid}_{i}.JPEG')
        photo(root / f'imagenet/images/val/{wnid}/v.JPEG')
    (root / 'imagenet/classnames.txt').write_text(''.join(f'{k} {v}\n' for k, v in WORDNET.items()))


def test_imagenet_counts_its_folders_and_names_them_from_its_list(tmp_path):
    write_imagenet(tmp_path)
    test = build('imagenet', tmp_path, 'test')
    assert test.metainfo['classes'] == tuple(WORDNET.values())  # two classes of one name stay two
    assert listed(test, tmp_path) == [(f'imagenet/images/val/{k}/v.JPEG', y) for y, k in enumerate(WORDNET)]
    assert Counter(label for _, label in listed(build('imagenet', tmp_path), tmp_path)) == dict.fromkeys(range(5), 3)
    assert test.metainfo['class_indices'] == (0, 1, 2, 3, 4)


def test_validation_images_of_imagenet_are_training_images_that_were_not_drawn(tmp_path):
    write_imagenet(tmp_path)
    train, val = (listed(build('imagenet', tmp_path, s, shots=2), tmp_path) for s in ('train', 'val'))
    assert Counter(label for _, label in train) == dict.fromkeys(range(5), 2)
    assert Counter(label for _, label in val) == dict.fromkeys(range(5), 1)
    assert not set(train) & set(val)
    assert all('images/train' in path for path, _ in val)
    with pytest.raises(ConfigError, match='imagenet has no validation images'):
        build('imagenet', tmp_path, 'val')


@pytest.mark.parametrize(
    'name, folder, kept',
    [
        ('imagenet-sketch', 'imagenet-sketch/images', list(WORDNET)),
        ('imagenet-a', 'imagenet-adversarial/imagenet-a', ['n02', 'n05']),
        ('imagenet-r', 'imagenet-rendition/imagenet-r', ['n03', 'n01']),
    ],
)
def test_variants_know_their_classes_among_those_of_imagenet(name, folder, kept, tmp_path):
    write_imagenet(tmp_path)
    for wnid in kept:
        photo(tmp_path / folder / wnid / 'x.jpg')
    (tmp_path / folder / 'README.txt').write_text('no class')
    dataset = build(name, tmp_path, 'test')
    kept = sorted(kept)
    assert dataset.metainfo['classes'] == tuple(WORDNET[k] for k in kept)
    assert dataset.metainfo['class_indices'] == tuple(list(WORDNET).index(k) for k in kept)
    assert listed(dataset, tmp_path) == [(f'{folder}/{k}/x.jpg', y) for y, k in enumerate(kept)]
    photo(tmp_path / folder / 'n99' / 'x.jpg')
    with pytest.raises(DataError, match='1 of them without name in .*: n99'):
        build(name, tmp_path, 'test')
    with pytest.raises(ConfigError, match=f"'train' is not in the splits of {name}"):
        build(name, tmp_path)


def test_imagenet_v2_has_numbers_for_folders(tmp_path):
    names = ''.join(f'n{i:02} class {i}\n' for i in range(12))
    (tmp_path / 'imagenetv2').mkdir()
    (tmp_path / 'imagenetv2/classnames.txt').write_text(names)
    folder = 'imagenetv2/imagenetv2-matched-frequency-format-val'
    for i in range(12):
        photo(tmp_path / folder / str(i) / 'x.jpeg')
    dataset = build('imagenetv2', tmp_path, 'test')  # 10 must not come before 2
    assert sorted(listed(dataset, tmp_path)) == sorted((f'{folder}/{i}/x.jpeg', i) for i in range(12))
    assert dataset.metainfo['classes'][10] == 'class 10'


def multi(dataset) -> list[tuple[str, list, list]]:
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [(Path(info['img_path']).name, info['gt_labels'], info['unknown_labels']) for info in infos]


def write_coco(root: Path) -> None:
    names = SETS['coco2014']['classes']
    (root / 'coco/annotations').mkdir(parents=True)
    ids = [i + 1 + i // 9 for i in range(80)]  # with gaps, as COCO's
    for part in ('train2014', 'val2014'):
        content = dict(
            images=[dict(id=i, file_name=f'{i}.jpg') for i in (7, 3, 5)],
            categories=[dict(id=i, name=n) for i, n in zip(ids, names, strict=True)][::-1],
            annotations=[dict(image_id=i, category_id=ids[k]) for i, k in ((3, 79), (3, 0), (7, 11), (3, 0))],
        )
        (root / f'coco/annotations/instances_{part}.json').write_text(json.dumps(content))
        for i in (7, 3):
            photo(root / f'coco/{part}/{i}.jpg')


def test_coco_has_the_classes_that_its_boxes_show(tmp_path):
    write_coco(tmp_path)
    for split in ('train', 'test'):
        dataset = build('coco2014', tmp_path, split)
        assert multi(dataset) == [('7.jpg', [11], []), ('3.jpg', [0, 79], [])]
    assert dataset.get_data_info(0)['num_classes'] == 80
    some = build('coco2014', tmp_path, 'test', classes=['toothbrush', 'person'])
    assert multi(some) == [('7.jpg', [], []), ('3.jpg', [1, 0], [])]
    assert some.get_data_info(0)['num_classes'] == 2
    with pytest.raises(ConfigError, match='coco2014 has no validation images'):
        build('coco2014', tmp_path, 'val')
    with pytest.raises(ConfigError, match='shots must be at least 1, found 0'):
        build('coco2014', tmp_path, shots=0)


def test_a_class_of_voc_that_only_difficult_objects_show_is_unknown(tmp_path):
    root = tmp_path / 'VOCdevkit/VOC2007'
    (root / 'ImageSets/Main').mkdir(parents=True)
    (root / 'Annotations').mkdir()
    objects = {'000001': [('diningtable', 0), ('person', 1)], '000002': [('person', 0), ('person', 1)]}
    for image, shown in objects.items():
        boxes = ''.join(f'<object><name>{n}</name><difficult>{d}</difficult></object>' for n, d in shown)
        (root / f'Annotations/{image}.xml').write_text(f'<annotation>{boxes}</annotation>')
        photo(root / f'JPEGImages/{image}.jpg')
    for part in ('trainval', 'test'):
        (root / f'ImageSets/Main/{part}.txt').write_text('000001\n000002\n')
    table, person = (SETS['voc2007']['classes'].index(n) for n in ('dining table', 'person'))
    for split in ('train', 'test'):
        assert multi(build('voc2007', tmp_path, split)) == [
            ('000001.jpg', [table], [person]),
            ('000002.jpg', [person], []),
        ]


def test_nus_wide_is_read_from_the_publishers_lists(tmp_path):
    root = tmp_path / 'nus-wide'
    for folder in ('ConceptsList', 'ImageList', 'Groundtruth/TrainTestLabels'):
        (root / folder).mkdir(parents=True)
    (root / 'ConceptsList/Concepts81.txt').write_text('airport\nnighttime_sky\n')
    for part in ('Train', 'Test'):
        (root / f'ImageList/{part}Imagelist.txt').write_text('actor\\1.jpg\r\nsky\\2.jpg\r\n')
        (root / f'Groundtruth/TrainTestLabels/Labels_airport_{part}.txt').write_text('0\n1\n')
        (root / f'Groundtruth/TrainTestLabels/Labels_nighttime_sky_{part}.txt').write_text('0\n1\n')
    for image in ('actor/1.jpg', 'sky/2.jpg'):
        photo(root / 'Flickr' / image)
    dataset = build('nus-wide', tmp_path, 'test')
    assert dataset.metainfo['classes'] == ('airport', 'nighttime sky')
    assert multi(dataset) == [('1.jpg', [], []), ('2.jpg', [0, 1], [])]
    (root / 'Groundtruth/TrainTestLabels/Labels_airport_Test.txt').write_text('0\n')
    with pytest.raises(DataError, match='Labels_airport_Test.txt has 1 lines; expected 2'):
        len(build('nus-wide', tmp_path, 'test'))


# --- SoftCPT's and ELEVATER's sets ------------------------------------------------------------------------------------


def test_a_split_file_of_softcpt_has_tasks_and_names_apart(tmp_path):
    for image in 'ab':
        photo(tmp_path / f'kaggle_mushroom/Mushrooms/Boletus/{image}.jpg')
    parts = {part: [['Boletus/a.jpg', [1], [0]], ['Boletus/b.jpg', [0], [0]]] for part in ('train', 'val', 'test')}
    file = tmp_path / 'kaggle_mushroom/split_dk_KaggleMushroom.json'
    file.write_text(json.dumps(dict(parts, meta=dict(taskid2cname=[['Agaricus', 'Fly_agaric']]))))
    dataset = build('kaggle_mushroom', tmp_path)
    assert dataset.metainfo['classes'] == ('Agaricus', 'Fly agaric')
    assert dataset.metainfo['template'] == 'a photo of a {}.'
    assert [label for _, label in listed(dataset, tmp_path)] == [1, 0]
    file.write_text(json.dumps(parts))
    with pytest.raises(DataError, match=r"the class names in meta.taskid2cname; found KeyError: 'meta'"):
        build('kaggle_mushroom', tmp_path)


ELEVATER = 'elevater/classification'


def test_lists_of_elevater_name_images_of_zip_files(tmp_path):
    root = tmp_path / ELEVATER / 'patch_camelyon_20211007'
    root.mkdir(parents=True)
    (root / 'labels.txt').write_text('lymph_node\ntumor\n')
    for part in ('train', 'val', 'test'):
        (root / f'{part}.txt').write_text(f'{part}.zip@a b/1.png 1\n{part}.zip@2.png 0\n')
    with pytest.raises(DataError, match=r'There is no folder .*/train. Unpack .*/train.zip into it'):
        len(build('elevater-patch-camelyon', tmp_path))
    for image in ('a b/1.png', '2.png'):
        photo(root / 'train' / image)
    dataset = build('elevater-patch-camelyon', tmp_path)
    assert dataset.metainfo['classes'] == ('lymph node', 'tumor')
    base = f'{ELEVATER}/patch_camelyon_20211007/train'
    assert listed(dataset, tmp_path) == [(f'{base}/a b/1.png', 1), (f'{base}/2.png', 0)]
    (root / 'classnames.txt').write_text('healthy\n')
    with pytest.raises(DataError, match=r'classnames.txt names 1 classes, the set has 2'):
        build('elevater-patch-camelyon', tmp_path)
    (root / 'classnames.txt').write_text('healthy lymph node tissue\nlymph node tumor tissue\n')
    assert build('elevater-patch-camelyon', tmp_path).metainfo['classes'][1] == 'lymph node tumor tissue'
    for line, message in (('train.zip@2.png 0,1', 'has 2 labels; expected one'), ('2.png 7', 'expected 0 to 1')):
        (root / 'train.txt').write_text(line)
        with pytest.raises(DataError, match=message):
            len(build('elevater-patch-camelyon', tmp_path))


def test_lists_of_elevater_may_be_those_of_coco(tmp_path):
    root = tmp_path / ELEVATER / 'hateful_memes_20211014'
    content = dict(
        images=[dict(id=5, file_name='1.png', zip_file='img.zip'), dict(id=2, file_name='img.zip@2.png')],
        annotations=[dict(id=1, image_id=2, category_id=1), dict(id=2, image_id=5, category_id=2)],
        categories=[dict(id=2, name='hatespeech meme'), dict(id=1, name='meme')],
    )
    for image in '12':
        photo(root / f'img/{image}.png')
    for part in ('train', 'test'):
        (root / f'{part}_meta.json').write_text(json.dumps(content))
    dataset = build('elevater-hateful-memes', tmp_path, 'test')
    assert dataset.metainfo['classes'] == ('meme', 'hatespeech meme')
    assert [(Path(path).name, label) for path, label in listed(dataset, tmp_path)] == [('1.png', 1), ('2.png', 0)]
    content['annotations'].pop()
    (root / 'test_meta.json').write_text(json.dumps(content))
    with pytest.raises(DataError, match='an image without label'):
        len(build('elevater-hateful-memes', tmp_path, 'test'))


def test_shots_of_images_with_several_labels_reach_each_class(tmp_path):
    root = tmp_path / ELEVATER / 'voc2007_20211007'
    root.mkdir(parents=True)
    (root / 'labels.txt').write_text('\n'.join(f'class {label}' for label in range(20)))
    lines = [f'train.zip@{i}.jpg {i % 20},{(i + 7) % 20}' for i in range(120)]
    for part in ('train', 'val', 'test'):
        (root / f'{part}_ic.txt').write_text('\n'.join(lines))
    for i in range(120):
        photo(root / f'train/{i}.jpg')
    chosen = {seed: multi(build('elevater-voc2007', tmp_path, shots=3, seed=seed)) for seed in (1, 2)}
    for images in chosen.values():
        counts = Counter(label for _, labels, _ in images for label in labels)
        assert set(counts) == set(range(20)) and min(counts.values()) >= 3 and len(images) < 60
    assert chosen[1] != chosen[2] and chosen[1] == multi(build('elevater-voc2007', tmp_path, shots=3, seed=1))
    assert len(build('elevater-voc2007', tmp_path, 'val', shots=9)) < 80


# --- the protocol ---------------------------------------------------------------------------------------------


def official_choice(parts: dict, shots: int, seed: int) -> tuple[list, list]:
    """CoOp's script: seed Python's generator, then draw from train and go on with val."""
    random.seed(seed)
    drawn = []
    for part, count in (('train', shots), ('val', min(shots, 4))):
        groups = defaultdict(list)
        for entry in parts[part]:
            groups[entry[1]].append(entry)
        drawn.append([e for group in groups.values() for e in random.sample(group, count)])
    return tuple(drawn)


@pytest.mark.parametrize('shots, seed', [(1, 1), (2, 3), (5, 2)])
def test_the_choice_equals_the_official_one(shots, seed, tmp_path):
    parts = write_split(tmp_path, 'dtd', counts=(7, 4, 1))
    for split, wanted in zip(('train', 'val'), official_choice(parts, shots, seed), strict=True):
        chosen = listed(build('dtd', tmp_path, split, shots=shots, seed=seed), tmp_path / 'dtd/images')
        assert chosen == [(path, label) for path, label, _ in wanted]
    assert len(build('dtd', tmp_path, 'test', shots=shots)) == 5


def test_base_and_new_classes_are_taken_after_drawing(tmp_path):
    parts = write_split(tmp_path, 'dtd')
    wanted = official_choice(parts, 2, 1)
    folder = tmp_path / 'dtd/images'
    for classes, first, count in (('base', 0, 3), ('new', 3, 2)):  # the first half is rounded up
        for split, drawn in zip(('train', 'val'), wanted, strict=True):
            dataset = build('dtd', tmp_path, split, shots=2, classes=classes)
            kept = [(path, label - first) for path, label, _ in drawn if first <= label < first + count]
            assert listed(dataset, folder) == kept
        assert dataset.metainfo['class_indices'] == tuple(range(first, first + count))
        assert dataset.metainfo['classes'] == tuple(n.replace('_', ' ') for n in NAMES[first : first + count])
    assert len(build('dtd', tmp_path, 'test', classes='new')) == 2 * 3


def test_classes_may_be_named_and_metainfo_may_name_them(tmp_path):
    write_split(tmp_path, 'dtd')
    for kwargs in (dict(classes=['baklava', 'café']), dict(metainfo=dict(classes=('baklava', 'café')))):
        dataset = build('dtd', tmp_path, 'test', **kwargs)
        assert dataset.metainfo['classes'] == ('baklava', 'café')
        assert {(Path(p).parent.name, y) for p, y in listed(dataset, tmp_path)} == {('baklava', 0), ('café', 1)}
    one = build('dtd', tmp_path, shots=1, classes=['café'])
    assert len(one) == 1 and one.metainfo['classes'] == ('café',)


def test_a_taxonomy_and_the_templates_travel_with_the_set(tmp_path):
    write_split(tmp_path, 'food101')
    taxonomy = dict(animal=('Tiger Shark', "St. Bernard's"), food=('baklava',))
    dataset = build('food101', tmp_path, metainfo=dict(taxonomy=taxonomy))
    assert dataset.metainfo['taxonomy'] == taxonomy
    assert dataset.metainfo['template'] == 'a photo of {}, a type of food.'


def test_every_set_has_a_template():
    assert all('{}' in sentence_of(name) for name in SETS)
    assert sentence_of('elevater-eurosat') == sentence_of('eurosat') != sentence_of('plant_village')
    assert read_templates('eurosat') == ('a centered satellite photo of {}.',)
    assert len(read_templates('imagenet80')) == 80 and len(read_templates('imagenet7')) == 7
    assert set(read_templates('imagenet7')) < set(read_templates('imagenet80'))


# --- bad input ------------------------------------------------------------------------------------------------


def test_more_shots_than_images_give_all_and_it_is_said(tmp_path, monkeypatch):
    write_split(tmp_path, 'eurosat', counts=(2, 1, 1))
    said = []
    monkeypatch.setattr('vlm_dense.classification.few_shot.print_log', lambda message, **_: said.append(message))
    assert len(build('eurosat', tmp_path, shots=16)) == 2 * 5
    assert 'eurosat: 5 classes have fewer than 16 images and give all they have: ' in said[0]


def test_a_class_without_training_images_is_refused(tmp_path):
    parts = write_split(tmp_path, 'dtd')
    parts['train'] = [entry for entry in parts['train'] if entry[1] != 2]
    (tmp_path / FOLDERS['dtd'][0]).write_text(json.dumps(parts))
    with pytest.raises(DataError, match='1 of 5 classes have no image among the 28 of dtd: café'):
        len(build('dtd', tmp_path, shots=1))
    with pytest.raises(DataError, match='1 of 5 classes have no training image: café'):
        len(build('dtd', tmp_path))
    assert len(build('dtd', tmp_path, 'test')) == 15


def test_images_that_a_split_file_names_and_are_absent_are_named(tmp_path):
    write_split(tmp_path, 'dtd', counts=(1, 1, 1))
    (tmp_path / 'dtd/images/café/test_0.jpg').unlink()
    with pytest.raises(DataError, match=r'dtd: 1 of 5 images of its test list are missing: .*café/test_0.jpg'):
        len(build('dtd', tmp_path, 'test'))
    assert len(build('dtd', tmp_path, 'train')) == 5


@pytest.mark.parametrize(
    'change, message',
    [
        (lambda parts: parts['val'].append(['x.jpg', 7, 'odd']), 'labels must be 0 to 5; .*: 5, 7'),
        (lambda parts: parts['val'].append(['x.jpg', -1, 'odd']), 'labels must be 0 to 5; .*: -1, 5'),
        (lambda parts: parts['val'].append(['x.jpg', 1, 'odd']), 'calls class 1 both .* and .* \\(at x.jpg\\)'),
        (lambda parts: parts.pop('val'), "no split file: .* KeyError: 'val'"),
        (lambda parts: parts['val'].append(['x.jpg', 1]), 'no split file: expected an object'),
    ],
)
def test_split_files_that_cannot_be_right_are_refused(change, message, tmp_path):
    parts = write_split(tmp_path, 'dtd', draw=False)
    change(parts)
    (tmp_path / FOLDERS['dtd'][0]).write_text(json.dumps(parts))
    with pytest.raises(DataError, match=message):
        build('dtd', tmp_path)


def test_unknown_names_get_the_nearest_known_ones(tmp_path):
    write_split(tmp_path, 'dtd')
    with pytest.raises(ConfigError, match="'caltech' is not in the data sets of vlm_dense. Did you mean 'caltech101'"):
        build('caltech', tmp_path)
    with pytest.raises(ConfigError, match="'old' is not in the class splits of dtd"):
        build('dtd', tmp_path, classes='old')
    with pytest.raises(ConfigError, match="'baklavas' is not in the classes of dtd. Did you mean 'baklava'"):
        build('dtd', tmp_path, classes=['baklavas'])
    with pytest.raises(ConfigError, match='gives 2 classes of 5; expected one or more, each once'):
        build('dtd', tmp_path, classes=['baklava', 'baklava'])
    with pytest.raises(ConfigError, match="'imagenet81' is not in the template lists .* 'imagenet80'"):
        read_templates('imagenet81')


def test_one_class_has_no_new_half(tmp_path):
    write_split(tmp_path, 'dtd', names=['only'])
    assert build('dtd', tmp_path, shots=1, classes='base').metainfo['classes'] == ('only',)
    with pytest.raises(ConfigError, match="classes='new' gives 0 classes of 1"):
        build('dtd', tmp_path, classes='new')


def test_missing_data_are_told_as_for_segmentation(tmp_path):
    init_default_scope('mmengine')
    loader = dict(dataset=dict(type='vlm_dense.ImageSetDataset', name='dtd', data_root=str(tmp_path / 'none')))
    cfg = Config(dict(train_dataloader=loader, data_root=str(tmp_path / 'none')))
    with pytest.raises(DataError) as caught:
        check_data(cfg, ('train_dataloader',))
    message = str(caught.value)
    assert f'the folder {tmp_path / "none"} does not exist' in message and '--data-root DIR' in message
    for place in FOLDERS['dtd']:
        assert f'MISSING {tmp_path / "none" / place}' in message
    write_split(tmp_path / 'none', 'dtd', counts=(1, 1, 1))
    check_data(cfg, ('train_dataloader',))
    assert class_names(cfg, ('train_dataloader',))[0] == 'Tiger Shark'
