"""Open-vocabulary splits of sets with several labels, and the shots that CoOp's code drew."""

from __future__ import annotations

import json
import os
import pickle
import sys
from types import ModuleType

import pytest
from classification.test_image_sets import build, multi, photo, write_coco

from vlm_dense.classification.datasets.pickled_shots import read_pickled_shots
from vlm_dense.errors import ConfigError, DataError

# --- open vocabulary --------------------------------------------------------------------------------------------------


def test_coco_has_48_seen_and_17_unseen_classes(tmp_path):
    write_coco(tmp_path)
    seen, unseen, both = (build('coco2014', tmp_path, 'test', classes=c) for c in ('seen', 'unseen', 'seen+unseen'))
    names = [set(dataset.metainfo['classes']) for dataset in (seen, unseen, both)]
    assert [len(found) for found in names] == [48, 17, 65]
    assert not names[0] & names[1] and names[0] | names[1] == names[2]
    assert {'cat', 'cup', 'umbrella'} <= names[1] and {'person', 'toothbrush', 'zebra'} <= names[0]
    seen_names = seen.metainfo['classes']
    assert multi(seen)[1] == ('3.jpg', [seen_names.index('person'), seen_names.index('toothbrush')], [])
    assert multi(unseen)[1] == ('3.jpg', [], [])
    with pytest.raises(ConfigError, match='seen'):
        build('coco2014', tmp_path, classes='sen')


def test_tags_of_nus_wide_are_seen_and_its_concepts_unseen(tmp_path):
    root = tmp_path / 'nus-wide'
    for folder in ('ConceptsList', 'ImageList', 'Groundtruth/TrainTestLabels', 'NUS_WID_Tags'):
        (root / folder).mkdir(parents=True)
    (root / 'ConceptsList/Concepts81.txt').write_text('airport\nsky\n')
    (root / 'NUS_WID_Tags/TagList1k.txt').write_text('nature\nsky\nblue\n')
    for part in ('Train', 'Test'):
        (root / f'ImageList/{part}Imagelist.txt').write_text('a\\1.jpg\nb\\2.jpg\n')
        (root / f'Groundtruth/TrainTestLabels/Labels_airport_{part}.txt').write_text('0\n1\n')
        (root / f'Groundtruth/TrainTestLabels/Labels_sky_{part}.txt').write_text('1\n0\n')
        (root / f'NUS_WID_Tags/{part}_Tags1k.dat').write_text('0\t1\t1\t\n1\t0\t0\t\n')
    for image in ('a/1.jpg', 'b/2.jpg'):
        photo(root / 'Flickr' / image)
    every = build('nus-wide-tags', tmp_path, 'test')
    assert every.metainfo['classes'] == ('nature', 'blue', 'airport', 'sky')
    assert multi(every) == [('1.jpg', [1, 3], []), ('2.jpg', [0, 2], [])]
    assert build('nus-wide-tags', tmp_path, 'train', classes='seen').metainfo['classes'] == ('nature', 'blue')
    assert multi(build('nus-wide-tags', tmp_path, 'test', classes='unseen')) == [('1.jpg', [1], []), ('2.jpg', [0], [])]
    (root / 'NUS_WID_Tags/Test_Tags1k.dat').write_text('0 1\n1 0\n')
    with pytest.raises(DataError, match='Test_Tags1k.dat must have 2 lines of 3 numbers'):
        len(build('nus-wide-tags', tmp_path, 'test'))


# --- pickled shots ----------------------------------------------------------------------------------------------------


@pytest.fixture
def datum(monkeypatch):
    """The class of CoOp's entries, where its code has it."""
    module = ModuleType('dassl.data.datasets.base_dataset')

    class Datum:
        def __init__(self, impath: str, label: int, classname: str):
            self._impath, self._label, self._domain, self._classname = impath, label, 0, classname

    Datum.__module__, Datum.__qualname__ = module.__name__, 'Datum'
    module.Datum = Datum
    for name in ('dassl', 'dassl.data', 'dassl.data.datasets'):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return Datum


def write_set(root) -> None:
    parts = {part: [[f'{name}/{part}{i}.jpg', label, name] for label, name in enumerate('ab') for i in (0, 1, 2)]
             for part in ('train', 'val', 'test')}  # fmt: skip
    for entries in parts.values():
        for path, *_ in entries:
            photo(root / 'dtd/images' / path)
    (root / 'dtd/split_zhou_DescribableTextures.json').write_text(json.dumps(parts))


def save(folder, content, protocol: int = pickle.HIGHEST_PROTOCOL) -> str:
    path = folder / 'shot_1-seed_1.pkl'
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return str(path)


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_shots_are_those_of_the_pickle_wherever_the_set_lay(datum, tmp_path, protocol):
    write_set(tmp_path)
    there = '/home/other/data/dtd/images'
    train = [datum(f'{there}/b/train2.jpg', 1, 'b'), datum(f'{there}/a/train1.jpg', 0, 'a')]
    path = save(tmp_path, dict(train=train, val=[datum(f'{there}/a/val0.jpg', 0, 'a')]), protocol)
    del sys.modules['dassl.data.datasets.base_dataset']  # nobody who reads needs it
    found = build('dtd', tmp_path, 'train', few_shot=path)
    infos = [found.get_data_info(i) for i in range(len(found))]
    assert [(os.path.relpath(i['img_path'], tmp_path / 'dtd/images'), i['gt_label']) for i in infos] == [
        ('b/train2.jpg', 1),
        ('a/train1.jpg', 0),
    ]
    assert (
        len(build('dtd', tmp_path, 'val', few_shot=path)) == 1
        and len(build('dtd', tmp_path, 'test', few_shot=path)) == 6
    )


class Harmful:
    """A pickle of it asks for a program to be started."""

    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return os.system, (f'touch {self.touched}',)


def test_nothing_in_a_pickle_is_run(tmp_path):
    path = save(tmp_path, dict(train=[Harmful(tmp_path / 'touched')]))
    with pytest.raises(DataError, match=r'it asks for \w+\.system\); nothing in it was run'):
        read_pickled_shots(path)
    assert not (tmp_path / 'touched').exists()


def test_files_of_another_content_are_refused(datum, tmp_path):
    write_set(tmp_path)
    for content in ([1, 2], dict(train=[3]), b'x'):
        with pytest.raises(DataError, match='is no file of few shots as the code of CoOp writes them'):
            read_pickled_shots(save(tmp_path, content))
    with pytest.raises(DataError, match="has no list 'train' of few shots; it has \\['test'\\]"):
        read_pickled_shots(save(tmp_path, dict(test=[])))
    with pytest.raises(DataError, match='There is no file'):
        read_pickled_shots(tmp_path / 'absent.pkl')
    path = save(tmp_path, dict(train=[datum('x/a/none.jpg', 0, 'a')]))
    with pytest.raises(DataError, match='x/a/none.jpg is not among the images'):
        len(build('dtd', tmp_path, 'train', few_shot=path))
    path = save(tmp_path, dict(train=[datum('x/a/train1.jpg', 1, 'b')]))
    with pytest.raises(DataError, match='train1.jpg has the label 0 and not 1'):
        len(build('dtd', tmp_path, 'train', few_shot=path))
    with pytest.raises(DataError, match="has no list 'val' of few shots"):
        len(build('dtd', tmp_path, 'val', few_shot=path))
    with pytest.raises(ConfigError, match='leave out shots'):
        build('dtd', tmp_path, 'train', few_shot=path, shots=1)
