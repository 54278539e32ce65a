"""``tools/segment.py`` as a user types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vlm_dense.cli import segment
from vlm_dense.datasets import DrawScene, ShapesDataset
from vlm_dense.inference import SegInferencer
from vlm_dense.inference.maskclip_models import METHODS

TOOLS = Path(__file__).parents[2] / 'tools'


@pytest.fixture(scope='module')
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp('scene') / 'scene.png'
    data = ShapesDataset(1, 'val', size=128, num_objects=(3, 4), label='shape', pipeline=[DrawScene()])
    cv2.imwrite(str(path), data[0]['img'])
    return path


def run(*words) -> None:
    segment.main([str(w) for w in words])


def complaint(capsys, *words) -> str:
    """The message of a refusal: status 2, no traceback."""
    with pytest.raises(SystemExit) as left:
        run(*words)
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert 'Traceback' not in message
    return message


def test_images_are_saved_and_shares_printed(scene, tmp_path, capsys):
    words = ['--classes', 'circle,', 'star', 'empty background', '--model', 'maskclip_tiny-rn', '--out', tmp_path]
    run(scene, *words, '--json', tmp_path / 'found.json')
    lines = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(lines) if '128 x 128 px' in line)
    assert str(tmp_path / 'vis' / 'scene.png') in lines[start] and str(tmp_path / 'pred' / 'scene.png') in lines[start]
    with Image.open(tmp_path / 'pred' / 'scene.png') as labels:
        labels = np.array(labels)
    assert labels.shape == (128, 128) and (tmp_path / 'vis' / 'scene.png').is_file()
    for index, name in enumerate(['circle', 'star', 'empty background']):
        assert lines[start + 1 + index].split(maxsplit=2) == [str(index), f'{(labels == index).mean():.1%}', name]
    (found,) = json.loads((tmp_path / 'found.json').read_text())
    assert found['size'] == [128, 128] and found['pred'] == str(tmp_path / 'pred' / 'scene.png')
    assert list(found['shares']) == ['circle', 'star', 'empty background']
    assert found['shares']['star'] == pytest.approx((labels == 1).mean())


def test_a_folder_and_another_clip(scene, tmp_path, capsys):
    run(scene.parent, '--classes', 'a, b', '--arch', 'tiny-rn', '--pretrained', 'bundled', '--out', tmp_path)
    assert capsys.readouterr().out.count('px; labels') == 1


def test_several_methods_are_also_drawn_side_by_side(scene, tmp_path, capsys):
    run(scene, '--classes', 'circle', 'star', 'empty background', '--method', 'naclip', 'lposs', '--out', tmp_path)
    printed = capsys.readouterr().out
    for method in ('naclip', 'lposs'):
        assert str(tmp_path / method / 'vis' / 'scene.png') in printed
        with Image.open(tmp_path / method / 'pred' / 'scene.png') as labels:
            assert np.array(labels).shape == (128, 128)
    with Image.open(tmp_path / 'side_by_side' / 'scene.png') as image:
        assert image.width > 3 * 220  # the image and two methods


@pytest.mark.parametrize('method', METHODS)
def test_every_method_segments_an_image_by_any_names(scene, method):
    inferencer = SegInferencer(f'{method}_tiny-vit', device='cpu', show_progress=False)
    result = inferencer(str(scene), ['circle', ['star', 'asterisk'], 'empty background'], return_scores=True)
    assert result['predictions'].shape == (128, 128) and result['classes'] == ['circle', 'star', 'empty background']
    assert result['scores'].shape == (3, 128, 128)
    np.testing.assert_allclose(result['scores'].sum(0), 1, atol=1e-4)
    if method != 'corrclip':  # its regions vote on the labels, and the scores stay
        np.testing.assert_array_equal(result['scores'].argmax(0), result['predictions'])
    assert len(np.unique(result['predictions'])) > 1


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--classes', 'a', 'b', '--method', 'naclip', '--model', 'maskclip_tiny-vit'], 'found both'),
        (['--classes', 'a', 'b', '--method', 'naclip', '--arch', 'ViT-B-16'], 'found one of them'),
        (['--classes', 'a', 'b', '--method', 'naclip', '--arch', 'tiny-rn', '--pretrained', 'bundled'], 'is a ResNet'),
        (['--classes', ' , '], 'empty list'),
        (['--classes', 'star', 'star'], "'star' is the name of class 0 and of class 1"),
        (['--classes', 'star', ' '.join(['very'] * 100)], 'tokens'),
        ([], '--classes sky road car'),
        (['--classes', 'a', 'b', '--model', 'maskclip_tiny'], "Did you mean 'maskclip_tiny"),
        (['--classes', 'a', 'b', '--arch', 'ViT-B-16'], '--arch and --pretrained'),
        (['--classes', 'a', 'b', '--arch', 'ViT-B-16', '--pretrained', 'none.pt'], 'none.pt'),
    ],
)
def test_what_cannot_be_done_is_a_message(scene, tmp_path, capsys, words, message):
    assert message in complaint(capsys, scene, '--out', tmp_path, *words)


@pytest.mark.parametrize('content', [None, b'', b'\xff\xd8\xff' + bytes(100)])
def test_a_bad_file_is_a_message(tmp_path, capsys, content):
    if content is not None:
        (tmp_path / 'photo.jpg').write_bytes(content)
    assert 'photo.jpg' in complaint(capsys, tmp_path / 'photo.jpg', '--classes', 'a', 'b', '--out', tmp_path)


def test_the_bundled_model_warns_that_it_knows_shapes_only(scene, tmp_path):
    words = [sys.executable, TOOLS / 'segment.py', scene, '--classes', 'circle', 'star', '--out', tmp_path]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ, OMP_NUM_THREADS='1'))
    assert done.returncode == 0, done.stderr
    warning = [line for line in done.stdout.splitlines() if 'only knows drawn shapes' in line]
    assert len(warning) == 1 and 'WARNING' in warning[0]


def test_an_image_side_by_side_does_not_replace_its_own(scene, tmp_path, capsys):
    folder = tmp_path / 'side_by_side'
    folder.mkdir()
    image = folder / 'scene.png'
    image.write_bytes(Path(scene).read_bytes())
    before = image.read_bytes()
    with pytest.raises(SystemExit):
        segment.main([str(image), '--classes', 'ring', '--method', 'naclip', 'sclip', '--out', str(tmp_path)])
    assert 'which it is made from' in capsys.readouterr().err and image.read_bytes() == before
