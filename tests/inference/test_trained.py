"""A trained model runs from its config and its checkpoint, without the data that it was trained on."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vlm_dense
from vlm_dense.cli import classify, detect, model_info, segment
from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.runner import launch
from vlm_dense.errors import ClassNamesError, ConfigError
from vlm_dense.inference import ClassInferencer, DetInferencer, SegInferencer
from vlm_dense.inference.page import segment as segment_on_page
from vlm_dense.inference.trained import shown_names

NAMES = ['circle', 'star', 'heart']
KINDS = {
    'denseclip_own-masks': SegInferencer,
    'denseclip_retinanet_own-coco': DetInferencer,
    'coop_own-folders': ClassInferencer,
}


@pytest.fixture(scope='module')
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    """Config -> checkpoint of a model that has seen nothing."""
    folder, found = tmp_path_factory.mktemp('trained'), {}
    for name in KINDS:
        model = vlm_dense.get_model(name, class_names=NAMES)
        found[name] = folder / f'{name}.pth'
        torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=NAMES))), found[name])
    return found


@pytest.fixture(scope='module')
def photo(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp('images') / 'photo.png'
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """There are no data, neither where the configs say nor elsewhere."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize('name', KINDS)
def test_names_are_those_of_the_checkpoint_or_shown_in_their_place(name, checkpoints, photo, tmp_path):
    model = KINDS[name](name, checkpoints[name], 'cpu', show_progress=False)
    assert list(model.class_names) == NAMES and model(str(photo))['classes'] == NAMES
    cfg = load_config(name)  # as a training saves it
    cfg.model['class_names'] = NAMES
    cfg.dump(tmp_path / 'saved.py')
    other = ['disc', 'star', 'heart']
    saved = KINDS[name](str(tmp_path / 'saved.py'), checkpoints[name], 'cpu', classes=other, show_progress=False)
    assert list(saved.class_names) == other and saved(str(photo))['classes'] == other
    if name == 'denseclip_own-masks':
        assert np.array_equal(saved(str(photo))['predictions'], model(str(photo))['predictions'])
        assert model(str(photo), classes=other)['classes'] == other and model(str(photo))['classes'] == NAMES
    if name == 'coop_own-folders':  # its context belongs to no class
        assert len(model(str(photo), ['a', 'b', 'c', 'd'])['predictions'][0]['scores']) == 4


@pytest.mark.parametrize('name', KINDS)
def test_a_model_is_counted_without_its_data(name, capsys):
    totals = []
    for words in ([], ['--classes', *NAMES]):
        model_info.main([name, '--shape', '64', '64', *words])
        told = capsys.readouterr().out
        assert ('Counted for 2 classes, as their names are in data that are not here' in told) == (not words)
        totals.append(int(re.search(r'^total\s+([\d,]+)', told, re.M)[1].replace(',', '')))
    assert totals[0] < totals[1] or name == 'coop_own-folders'  # it has weights of no class


def test_inferencers_tell_what_they_are_and_list_models_without_printing(checkpoints, capsys):
    name = 'coop_own-folders'
    model = ClassInferencer(name, checkpoints[name], 'cpu', show_progress=False)
    assert repr(model) == 'ClassInferencer(CLIPClassifier, 3 classes: circle, star, heart)'
    capsys.readouterr()
    for kind in KINDS.values():
        assert kind.list_models(patterns='coop_') == [
            each for each in vlm_dense.list_models() if each.startswith('coop_')
        ]
    assert capsys.readouterr().out == ''


def test_names_that_would_stand_for_another_class_are_refused():
    with pytest.raises(ClassNamesError, match=r'3 classes \(circle, star, heart\) and .* found 2 \(circle, star\)\.'):
        shown_names('A', NAMES, ['circle', 'star'])
    with pytest.raises(ClassNamesError, match="with 'star' as class 1, found it as class 0.*circle, star, heart"):
        shown_names('A', NAMES, ['star', 'circle', 'heart'])
    assert shown_names('A', NAMES, NAMES) == NAMES


def test_without_names_or_checkpoint_a_model_says_what_it_needs(checkpoints, tmp_path):
    for name, kind in KINDS.items():
        with pytest.raises(ClassNamesError, match='--weights CHECKPOINT'):
            kind(name, device='cpu', show_progress=False)
    name, kind = 'coop_own-folders', ClassInferencer
    with pytest.raises(ConfigError, match='weights that training sets.*--weights CHECKPOINT'):
        kind(name, device='cpu', classes=NAMES, show_progress=False)
    alone = tmp_path / 'alone.pth'
    torch.save(torch.load(checkpoints[name], weights_only=True)['state_dict'], alone)
    with pytest.raises(ClassNamesError, match='alone.pth does not tell the names.*--classes'):
        kind(name, alone, 'cpu', show_progress=False)
    assert list(kind(name, alone, 'cpu', classes=NAMES, show_progress=False).class_names) == NAMES


def test_programs_take_the_names_of_the_checkpoint_or_of_a_file(checkpoints, photo, tmp_path, capsys):
    def words(name, *more):
        return [str(photo), '--model', name, '--weights', str(checkpoints[name]), '--out', 'out', '-q', *more]

    segment.main(words('denseclip_own-masks'))
    assert all(name in capsys.readouterr().out for name in NAMES[:1])
    (tmp_path / 'names.txt').write_text('disc\nstar\nheart\n')
    segment.main(words('denseclip_own-masks', '--classes', 'names.txt', '--out', 'other'))
    assert 'disc' in capsys.readouterr().out
    detect.main(words('denseclip_retinanet_own-coco', '--classes', 'disc', 'star,heart', '--threshold', '0'))
    told = capsys.readouterr().out
    assert 'objects; all: out/preds/photo.json' in told and 'circle' not in told
    classify.main(words('coop_own-folders', '--json', 'found.json', '--top', '2'))
    assert 'photo.png' in capsys.readouterr().out and Path('out/sheet.png').is_file()


def test_a_test_takes_the_names_of_masks_from_the_checkpoint(checkpoints):
    def config(checkpoint, classes=None):
        args = dict(config='denseclip_own-masks', cfg_options=None, data_root='masks', classes=classes)
        return launch.read_config(argparse.Namespace(checkpoint=checkpoint, **args))

    cfg = config(str(checkpoints['denseclip_own-masks']))
    assert list(cfg.test_dataloader.dataset.metainfo.classes) == NAMES
    assert list(config(None, ['a', 'b']).test_dataloader.dataset.metainfo.classes) == ['a', 'b']
    assert config(None).test_dataloader.dataset.get('metainfo') is None


def test_the_page_shows_the_classes_of_a_trained_model_without_names(checkpoints, photo):
    model = SegInferencer('denseclip_own-masks', checkpoints['denseclip_own-masks'], 'cpu', show_progress=False)
    answer = segment_on_page(model, str(photo), '')
    assert answer.classes == NAMES and answer.labels[''].shape == (48, 64)
    with pytest.raises(ClassNamesError, match='Type the names'):
        segment_on_page(SegInferencer(device='cpu', show_progress=False), str(photo), ' ')


def test_one_name_alone_classifies_nothing(photo):
    with pytest.raises(ClassNamesError, match="'circle', would be found in every image"):
        ClassInferencer('clip_tiny-vit', None, 'cpu', ['circle'])
    with pytest.raises(ClassNamesError, match="'star', would be found in every image"):
        ClassInferencer('clip_tiny-vit', None, 'cpu', NAMES)(str(photo), classes=['star'])
