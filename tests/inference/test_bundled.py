"""Trained checkpoints that come with the package: found by name, small, the same to rounding."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import vlm_dense
from vlm_dense import zoo
from vlm_dense.cli import segment
from vlm_dense.datasets import DrawScene, ShapesDataset
from vlm_dense.datasets.scenes import SHAPES
from vlm_dense.engine.checkpoints import bundled
from vlm_dense.engine.configs.names import BUNDLED, CONFIGS, bundled_checkpoint, bundled_file, bundled_names
from vlm_dense.errors import CheckpointError
from vlm_dense.inference import SegInferencer
from vlm_dense.inference.trained import load_weights

SEGMENTOR = 'denseclip_shapes'


@pytest.fixture(scope='module')
def scenes():
    """Test scenes of the training's kind."""
    return list(
        ShapesDataset(12, 'test', size=96, num_objects=(2, 5), label='shape', background=True, pipeline=[DrawScene()])
    )


@pytest.fixture(scope='module')
def segmentor():
    return SegInferencer(SEGMENTOR, device='cpu', show_progress=False)


def test_a_trained_model_runs_by_its_name_alone(segmentor, scenes):
    found = segmentor([scene['img'] for scene in scenes])['predictions']
    right = np.mean([(a == scene['gt_seg_map']).mean() for a, scene in zip(found, scenes, strict=True)])
    assert right > 0.9  # one that guesses has the background alone
    assert f'weights of {SEGMENTOR} that come with vlm_dense were trained on drawn shapes' in segmentor.limits


def test_the_files_are_small_and_in_the_metafiles():
    assert SEGMENTOR in bundled_names()
    assert sum(bundled_file(name).stat().st_size for name in bundled_names()) < 8_000_000
    told = {card.name: card.weights for card in zoo.cards() if (card.weights or '').startswith(BUNDLED)}
    assert told == {name: f'{BUNDLED}{name}' for name in bundled_names()}


@pytest.mark.parametrize('name', bundled_names())
def test_each_fits_its_config_and_tells_its_classes(name):
    model = vlm_dense.get_model(name, pretrained=True)
    begun = vlm_dense.get_model(name)
    trained = [key for key, p in model.named_parameters() if p.requires_grad]
    same = [key for key in trained if torch.equal(model.get_parameter(key), begun.get_parameter(key))]
    assert trained and not same
    assert 'circle' in model.dataset_meta['classes'] or 'a circle' in model.dataset_meta['classes']


def test_a_config_is_known_by_its_place(tmp_path, monkeypatch):
    for config in (
        SEGMENTOR,
        f'{SEGMENTOR}.py',
        CONFIGS / f'{SEGMENTOR}.py',
        CONFIGS / 'denseclip' / f'{SEGMENTOR}.py',
    ):
        assert bundled_checkpoint(config) == f'{BUNDLED}{SEGMENTOR}'
    monkeypatch.chdir(tmp_path)
    (tmp_path / f'{SEGMENTOR}.py').write_text(f"_base_ = 'vlm_dense::denseclip/{SEGMENTOR}.py'\n")
    assert bundled_checkpoint(f'{SEGMENTOR}.py') is None  # the user's own, which may be anything
    assert bundled_checkpoint(None) is None and bundled_checkpoint('denseclip_ade20k') is None


def test_packing_changes_weights_by_rounding_and_predictions_hardly(segmentor, scenes, tmp_path, monkeypatch):
    begun = vlm_dense.get_model(SEGMENTOR).state_dict()
    state = {key: value.clone() for key, value in segmentor.model.state_dict().items()}
    torch.manual_seed(0)
    for value in state.values():  # no longer on the steps of the file
        value += 0.002 * value.std() * torch.randn_like(value) if value.is_floating_point() and value.dim() > 1 else 0
    checkpoint = dict(state_dict=state, meta=dict(dataset_meta=dict(classes=segmentor.class_names)))
    towers = {key: value for key, value in begun.items() if key.startswith('backbone.') and value.any()}
    whole, packed = (SegInferencer(SEGMENTOR, device='cpu', show_progress=False) for _ in range(2))
    as_is = SimpleNamespace(compress=lambda content, **how: content, decompress=lambda content: content, CHECK_CRC32=1)
    monkeypatch.setattr(bundled, 'lzma', as_is)  # seconds
    content = bundled.pack(checkpoint, towers)
    monkeypatch.setattr(bundled, 'bundled_file', lambda name: tmp_path / name)
    monkeypatch.setattr(bundled, 'bundled_names', lambda: ['packed'])
    (tmp_path / 'packed').write_bytes(content)
    read = bundled.read_bundled(f'{BUNDLED}packed')
    bundled.add_differences(read, lambda: begun)
    for key, value in state.items():
        assert (read['state_dict'][key] - value).abs().max() <= 2e-3 * value.abs().max(), key
    whole.model.load_state_dict(state)
    packed.model.load_state_dict(read['state_dict'])
    images = [scene['img'] for scene in scenes[:4]]
    a, b = (model(images, return_scores=True) for model in (whole, packed))
    assert np.mean(np.array(a['predictions']) == np.array(b['predictions'])) > 0.999
    np.testing.assert_allclose(np.array(a['scores']), np.array(b['scores']), atol=0.1)


def test_differences_from_other_weights_and_unknown_names_are_refused():
    model = vlm_dense.get_model(SEGMENTOR)
    with torch.no_grad():
        model.backbone.conv1.weight.mul_(1.1)
    with pytest.raises(CheckpointError, match='begin with other values, as backbone.conv1.weight'):
        load_weights(model, f'{BUNDLED}{SEGMENTOR}')
    with pytest.raises(CheckpointError, match=f"Did you mean '{SEGMENTOR}'"):
        load_weights(model, f'{BUNDLED}denseclip_shape')


def test_the_program_needs_no_weights(scenes, tmp_path, capsys):
    Image.fromarray(scenes[0]['img'][..., ::-1]).save(tmp_path / 'scene.png')
    figures = tmp_path / 'figures.json'
    segment.main([str(tmp_path / 'scene.png'), '--model', SEGMENTOR, '--out', str(tmp_path), '--json', str(figures)])
    (row,) = json.loads(figures.read_text())
    assert list(row['shares']) == ['background', *SHAPES] and row['shares']['background'] > 0.4
    assert 'background' in capsys.readouterr().out


# --- in a notebook -----------------------------------------------------------------------------------------------


def test_results_are_tables_in_a_notebook(segmentor, scenes):
    one = segmentor(scenes[0]['img'], return_vis=True)
    html = one._repr_html_()
    assert html.startswith('<img src="data:image/png;base64,') and '<td>background</td>' in html
    assert f'{(one["predictions"] == 0).mean():.1%}' in html
    several = segmentor([scene['img'] for scene in scenes])._repr_html_()
    assert 'and 4 more images' in several and '<img' not in several
