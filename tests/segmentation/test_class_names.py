"""Lists of class names: what is read, what is refused, and that the lists fit the data sets of the configs."""

from __future__ import annotations

from pathlib import Path

import mmseg.datasets
import pytest
from mmengine.config import Config

from vlm_dense.datasets.camvid import CamVidDataset
from vlm_dense.errors import ClassNamesError
from vlm_dense.vocabulary.class_names import FOLDER, as_class_names, read_class_names

CONFIGS = Path(__file__).parents[2] / 'configs' / 'maskclip'


def test_a_class_has_one_name_or_several():
    assert as_class_names(['sky', ['sofa', 'couch', 'sofa']]) == (('sky',), ('sofa', 'couch'))


def test_spaces_around_and_inside_names_are_made_one():
    assert as_class_names([' bed ', 'traffic  light']) == (('bed',), ('traffic light',))


def test_a_file_has_one_class_a_line(tmp_path):
    path = tmp_path / 'own.txt'
    path.write_text('# comment\nsky\n\nsofa, couch\n', encoding='utf-8')
    assert read_class_names(str(path)) == [['sky'], ['sofa', 'couch']]
    assert as_class_names(str(path)) == (('sky',), ('sofa', 'couch'))


@pytest.mark.parametrize('names', [[], ()])
def test_an_empty_list_is_refused(names):
    with pytest.raises(ClassNamesError, match='at least one class name, found an empty list'):
        as_class_names(names)


@pytest.mark.parametrize('names', [['sky', ''], ['sky', []], ['sky', ['road', ' ']]])
def test_a_class_without_name_is_refused(names):
    with pytest.raises(ClassNamesError, match='Class 1 of 2 has no name'):
        as_class_names(names)


def test_a_name_of_two_classes_is_refused_with_both_indices():
    with pytest.raises(ClassNamesError, match="'sofa' is the name of class 0 and of class 2"):
        as_class_names(['sofa', 'table', ['couch', 'sofa']])


def test_an_unknown_list_suggests_the_nearest():
    with pytest.raises(ClassNamesError, match="Did you mean 'context59'"):
        as_class_names('context95')


def test_a_missing_file_is_named():
    with pytest.raises(ClassNamesError, match=r'no file of class names at .*nowhere\.txt'):
        as_class_names('nowhere.txt')


@pytest.mark.parametrize('name', sorted(p.stem for p in FOLDER.glob('*.txt')))
def test_the_lists_of_the_package_can_be_used(name):
    assert len(as_class_names(name)) > 8


@pytest.mark.parametrize(
    ('name', 'dataset', 'start'),
    [
        ('voc20', 'PascalVOCDataset', 1),
        ('voc21', 'PascalVOCDataset', 0),
        ('context59', 'PascalContextDataset59', 0),
        ('context60', 'PascalContextDataset', 0),
        ('coco-stuff171', 'COCOStuffDataset', 0),
        ('ade150', 'ADE20KDataset', 0),
        ('cityscapes19', 'CityscapesDataset', 0),
        ('camvid11', CamVidDataset, 0),
    ],
)
def test_the_lists_have_the_label_order_of_the_data_sets(name, dataset, start):
    kind = getattr(mmseg.datasets, dataset) if isinstance(dataset, str) else dataset
    theirs = kind.METAINFO['classes'][start:]
    ours = [aliases[0] for aliases in as_class_names(name)]
    assert len(ours) == len(theirs)

    def words(text: str) -> set[str]:
        letters = text.replace('-', ' ').replace('wooden', 'wood').replace('structure', 'structural').split()
        return {''.join(letters)} | set(letters)

    assert all(words(a) & words(b) for a, b in zip(ours, theirs, strict=True) if b != 'hair drier')


@pytest.mark.parametrize('path', sorted(CONFIGS.glob('maskclip_[!p]*.py')), ids=lambda p: p.stem)
def test_every_config_names_as_many_classes_as_its_data_set_has(path):
    config = Config.fromfile(path)
    names = config.model.get('class_names')
    if names is not None:
        assert len(as_class_names(names)) == config.num_classes
    assert config.model.data_preprocessor.bgr_to_rgb
