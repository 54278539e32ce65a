"""Models by name: listed from the metafiles, built with class names and weights."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import pytest
import torch
import yaml

import vlm_dense
from vlm_dense import zoo
from vlm_dense.engine.configs.names import CONFIGS, existing_config, find_config, list_configs
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError

ROOT = Path(__file__).parents[1]


def test_every_config_is_a_model():
    assert vlm_dense.list_models() == sorted(p.stem for p in list_configs(CONFIGS) if p.parent != CONFIGS)


def test_the_index_names_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    assert index['Import'] == sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / 'configs').glob('*/metafile.yml'))


@pytest.mark.parametrize('pattern', ['coop', 'coop_*', '[md]*_ade20k', 'nothing'])
def test_patterns_are_those_of_file_names(pattern):
    assert vlm_dense.list_models(pattern) == fnmatch.filter(vlm_dense.list_models(), f'*{pattern}*')


def test_tasks_part_the_models():
    parts = [set(vlm_dense.list_models(task=task)) for task in ('Segmentation', 'detection', 'classification')]
    assert {'denseclip_shapes', 'naclip_tiny-vit_camvid'} <= parts[0] and 'coop_imagenet' in parts[2]
    assert {'denseclip_retinanet_shapes', 'clip_mask-rcnn_r50_coco'} <= parts[1]
    assert not parts[0] & parts[2] and not parts[1] & parts[2]


@pytest.mark.parametrize(
    'name',
    [
        'coop_shapes',
        'coop_shapes.py',
        'coop/coop_shapes',
        'configs/coop_shapes.py',
        'configs/coop/coop_shapes.py',
        'vlm_dense::coop/coop_shapes.py',
    ],
)
def test_a_config_is_found_by_every_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == CONFIGS / 'coop' / 'coop_shapes.py'


def test_a_file_of_the_user_comes_first_and_another_place_of_theirs_is_not_ours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'coop_shapes.py').write_text('')
    assert find_config('coop_shapes.py') == Path('coop_shapes.py')
    for name in (tmp_path / 'own' / 'coop_shapes.py', 'own/coop_shapes.py', '../coop_shapes.py', 'a/b/coop_shapes.py'):
        with pytest.raises(ConfigError, match='does not exist'):
            existing_config(name)


@pytest.mark.parametrize(
    ('name', 'kind'),
    [('denseclip_shapes', 'DenseCLIP'), ('coop_shapes', 'CLIPClassifier')],
)
def test_a_model_is_built_for_its_classes_and_for_others(name, kind):
    model = vlm_dense.get_model(name)
    assert type(model).__name__ == kind and not model.training
    classes = model.dataset_meta['classes']
    assert 'crescent' in classes and model.cfg.test_pipeline and model.data_preprocessor.mean.shape == (3, 1, 1)
    names = ['sky', 'road', 'car', 'tree'] if name != 'coop_shapes' else ['owl', 'kettle', 'lamp', 'bee']
    other = vlm_dense.get_model(name, class_names=names)
    assert other.dataset_meta['classes'] == tuple(names)
    with torch.no_grad():
        images = torch.rand(1, 3, 64, 64)
        outputs = [m(images, mode='tensor') for m in (model, other)]
    outputs = [out[0] if isinstance(out, (tuple, list)) else out for out in outputs]
    assert [out.shape[1] for out in outputs] == [len(classes), 4]


def test_a_checkpoint_is_loaded_and_one_of_another_model_refused(tmp_path):
    model = vlm_dense.get_model('coop_shapes')
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn_like(parameter)
    path = str(tmp_path / 'weights.pth')
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=model.dataset_meta)), path)
    loaded = vlm_dense.get_model('coop_shapes', pretrained=path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    torch.save({'decode_head.conv_seg.weight': torch.zeros(3)}, path)
    with pytest.raises(CheckpointError):
        vlm_dense.get_model('coop_shapes', pretrained=path)


def test_weights_of_the_metafile_are_taken_if_there_are_some(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match='no checkpoint of coop_shapes to get: its metafile names none'):
        vlm_dense.get_model('coop_shapes', pretrained=True)
    path = str(tmp_path / 'weights.pth')
    torch.save(vlm_dense.get_model('coop_shapes').state_dict(), path)
    cards = [zoo.Card('coop_shapes', CONFIGS / 'coop' / 'coop_shapes.py', 'CoOp', 'Shapes', weights=path)]
    monkeypatch.setattr(zoo, 'cards', lambda: cards)
    assert vlm_dense.get_model('coop_shapes', pretrained=True).dataset_meta['classes']


@pytest.mark.parametrize(
    ('name', 'options', 'error', 'expected'),
    [
        ('cop_shapes', {}, ConfigError, "Did you mean 'coop_shapes'"),
        ('maskclip_tiny-vit', {}, ClassNamesError, 'has no class names of its own'),
        ('coop_shapes', dict(class_names='abc'), ClassNamesError, 'is not in the lists of class names'),
        ('coop_shapes', dict(class_names=['a', 5]), ClassNamesError, 'must be a string'),
        ('coop_shapes', dict(pretrained='nowhere.pth'), CheckpointError, 'does not exist'),
        ('coop_shapes', dict(device='cuda:77'), ConfigError, "device 'cuda:77' cannot be used"),
    ],
)
def test_what_cannot_be_built_is_told(name, options, error, expected):
    with pytest.raises(error, match=expected):
        vlm_dense.get_model(name, **options)


def test_a_card_is_a_table_in_a_notebook():
    (card,) = [card for card in zoo.find_cards('denseclip_rn101_ade20k') if card.name == 'denseclip_rn101_ade20k']
    html = card._repr_html_()
    assert '<th>published</th><td>' in html and 'mIoU 45.1' in html and 'Semantic Segmentation' in html
    assert '&lt;b&gt;' in zoo.Card('<b>', card.config, '', '')._repr_html_()
