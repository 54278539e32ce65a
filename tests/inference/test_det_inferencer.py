from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from PIL import Image
from pycocotools import mask as coco_masks

from vlm_dense.cli import demo, detect
from vlm_dense.datasets import DrawScene, ShapesDataset
from vlm_dense.engine.configs.names import CONFIGS
from vlm_dense.errors import CheckpointError, ConfigError, DataError
from vlm_dense.inference import DetInferencer, page

NAMES = list(ShapesDataset.METAINFO['classes'])


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    """A model that has seen nothing; its biases make every class likely enough to be found."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / 'denseclip_mask-rcnn_shapes.py')
    torch.manual_seed(3)
    model = MODELS.build(dict(cfg.model, class_names=NAMES))
    model.init_weights()
    path = tmp_path_factory.mktemp('model') / 'model.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=NAMES))), path)
    return path


@pytest.fixture(scope='module')
def inferencer(checkpoint):
    return DetInferencer('denseclip_mask-rcnn_shapes', checkpoint, device='cpu', show_progress=False)


@pytest.fixture(scope='module')
def scenes():
    """uint8 (100, 128, 3) BGR; no two sides alike."""
    data = ShapesDataset(3, 'val', size=128, num_objects=(3, 4), pipeline=[DrawScene()])
    return [np.ascontiguousarray(x['img'][:100]) for x in data]


def same(a: dict, b: dict) -> None:
    assert a['labels'] == b['labels']
    np.testing.assert_allclose(a['bboxes'], b['bboxes'], atol=1e-3)
    np.testing.assert_allclose(a['scores'], b['scores'], atol=1e-5)


def test_boxes_and_masks_are_in_pixels_of_the_image(inferencer, scenes):
    result = inferencer(scenes[0])
    assert result['classes'] == NAMES
    (found,) = result['predictions']
    boxes = np.array(found['bboxes'])
    assert len(boxes) == len(found['labels']) == len(found['scores']) == len(found['masks']) > 0
    assert (boxes >= 0).all() and (boxes[:, 2] <= 128).all() and (boxes[:, 3] <= 100).all()
    assert boxes[:, 2].max() > 96  # more than the 96 px to which the model resizes
    assert all(coco_masks.decode(m).shape == (100, 128) for m in found['masks'])
    json.dumps(found)


def test_paths_arrays_folders_and_batches_give_the_same(inferencer, scenes, tmp_path):
    for i, scene in enumerate(scenes):
        cv2.imwrite(str(tmp_path / f'{i}.png'), scene)
    (tmp_path / 'notes.txt').write_text('no image')
    arrays = inferencer(scenes)['predictions']
    folder = inferencer(tmp_path, batch_size=3)['predictions']
    mixed = inferencer([str(tmp_path / '0.png'), scenes[1], tmp_path / '2.png'])['predictions']
    for a, b, c in zip(arrays, folder, mixed, strict=True):
        same(a, b)
        same(a, c)


def test_overlays_and_predictions_are_saved_each_under_a_name_of_its_own(inferencer, scenes, tmp_path):
    paths = [tmp_path / folder / 'a.png' for folder in 'xy']
    for path, scene in zip(paths, scenes, strict=False):
        path.parent.mkdir()
        cv2.imwrite(str(path), scene)
    result = inferencer(paths, out_dir=tmp_path / 'out', no_save_pred=False, return_vis=True, pred_score_thr=0.0)
    for name, found, image in zip(('a', 'a_2'), result['predictions'], result['visualization'], strict=True):
        same(json.loads((tmp_path / 'out' / 'preds' / f'{name}.json').read_text()), found)
        with Image.open(tmp_path / 'out' / 'vis' / f'{name}.png') as saved:
            np.testing.assert_array_equal(np.array(saved), image)
        assert image.shape == (375, 480, 3)


def test_what_is_drawn_is_the_image_and_what_is_sure(inferencer, scenes):
    plain, drawn = (
        inferencer(scenes[0], return_vis=True, pred_score_thr=t)['visualization'][0].astype(int) for t in (1.0, 0.0)
    )
    shown = cv2.resize(scenes[0][..., ::-1], (480, 375), interpolation=cv2.INTER_NEAREST).astype(int)
    assert np.abs(plain - shown).mean() < 2  # RGB, nothing drawn
    assert np.abs(drawn - shown).mean() > 5


def test_samples_are_mmdets(inferencer, scenes):
    (sample,) = inferencer(scenes[0], return_datasamples=True)['predictions']
    (found,) = inferencer(scenes[0])['predictions']
    assert sample.pred_instances.labels.tolist() == found['labels']


@pytest.mark.parametrize('kind', ['cut', 'empty', 'absent'])
def test_a_file_that_is_no_whole_image_is_named(inferencer, scenes, tmp_path, kind):
    path = tmp_path / 'photo.jpg'
    Image.fromarray(scenes[0]).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if kind == 'cut' else b'')
    if kind == 'absent':
        path.unlink()
    with pytest.raises(DataError, match='photo.jpg'):
        inferencer(path)


@pytest.mark.parametrize('source', [np.zeros((10,), np.uint8), np.full((10, 10, 3), 2, np.float32), [], 7])
def test_what_is_no_image_is_a_message(inferencer, source):
    with pytest.raises(DataError, match='Expected'):
        inferencer(source)


def test_a_place_that_cannot_be_written_is_a_message(inferencer, scenes, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='cannot be written'):
        inferencer(scenes[0], out_dir=tmp_path / 'file')


def test_a_model_that_cannot_be_used_is_a_message(checkpoint, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'denseclip_mask-rcnn_shapes'"):
        DetInferencer('denseclip_maskrcnn_shapes', checkpoint)
    with pytest.raises(ConfigError, match='name a checkpoint, as in DetInferencer'):
        DetInferencer('denseclip_mask-rcnn_shapes', device='cpu')
    with pytest.raises(CheckpointError, match='missing from the checkpoint: gamma, backbone'):
        torch.save({'layer.weight': torch.zeros(3)}, tmp_path / 'foreign.pth')
        DetInferencer('denseclip_mask-rcnn_shapes', tmp_path / 'foreign.pth', device='cpu')


@pytest.mark.parametrize('shape', [(3, 20_000), (20_000, 3), (1, 1), (2, 300), (1, 5_000)])
def test_extreme_shapes_are_detected_on_or_refused_in_a_message(inferencer, shape, tmp_path):
    image = np.full((*shape, 3), 90, np.uint8)
    try:
        result = inferencer(image, out_dir=str(tmp_path))
    except DataError as error:
        assert f'{shape[1]} x {shape[0]} px' in str(error)
    else:
        assert set(result['predictions'][0]) >= {'labels', 'scores', 'bboxes'}


def test_limits_devices_and_results_are_looked_at(inferencer, checkpoint, scenes, tmp_path, monkeypatch):
    warned = []
    monkeypatch.setattr(
        'mmengine.logging.print_log',
        lambda message, *_, level=logging.INFO, **__: warned.extend([message] if level == logging.WARNING else ()),
    )
    with pytest.raises(ConfigError, match="'cuda:77' cannot be used"):
        DetInferencer('denseclip_mask-rcnn_shapes', checkpoint, device='cuda:77')
    with pytest.raises(ConfigError, match='batch_size'):
        inferencer(scenes[0], batch_size=0)
    small = DetInferencer('denseclip_mask-rcnn_shapes', checkpoint, 'cpu', False, max_pixels=1000)
    assert warned == []  # as mmengine does of a registry that a scope has not
    with pytest.raises(DataError, match='at most 1,000 are read'):
        small(scenes[0])
    path = tmp_path / 'vis' / 'a.png'
    path.parent.mkdir()
    cv2.imwrite(str(path), scenes[0])
    with pytest.raises(DataError, match='which it is made from'):
        inferencer(str(path), out_dir=str(tmp_path))


def test_the_program_prints_what_it_finds_and_saves_all(checkpoint, inferencer, scenes, tmp_path, capsys):
    for i, scene in enumerate(scenes[:2]):
        cv2.imwrite(str(tmp_path / f'scene_{i}.png'), scene)
    words = ['--model', 'denseclip_mask-rcnn_shapes', '--weights', str(checkpoint), '--device', 'cpu']
    images = [str(tmp_path / f'scene_{i}.png') for i in range(2)]
    expected = inferencer(images)['predictions']
    threshold = float(np.median(expected[0]['scores']))
    detect.main([*images, *words, '--threshold', str(threshold), '--out', str(tmp_path / 'out')])
    printed = capsys.readouterr().out
    for i, found in enumerate(expected):
        saved = json.loads((tmp_path / 'out' / 'preds' / f'scene_{i}.json').read_text())
        same(saved, found)
        assert len(saved['masks']) == len(found['labels']) and (tmp_path / 'out' / 'vis' / f'scene_{i}.png').is_file()
        count = sum(score > threshold for score in found['scores'])
        assert f'scene_{i}.png  ({count} objects; all: ' in printed
    assert printed.count(') to (') == sum(score > threshold for found in expected for score in found['scores'])
    with pytest.raises(SystemExit) as left:
        detect.main([*images, *words, '--threshold', '7'])
    assert left.value.code == 2 and '--threshold is a score' in capsys.readouterr().err


@pytest.fixture(scope='module')
def words(tmp_path_factory):
    """F-ViT, which has seen nothing, and its checkpoint as a training on six base classes leaves it."""
    init_default_scope('mmdet')
    cfg = Config.fromfile(CONFIGS / 'f_vit' / 'f_vit_shapes.py')
    torch.manual_seed(3)
    model = MODELS.build(dict(cfg.model, class_names=NAMES[:6]))
    model.init_weights()
    path = tmp_path_factory.mktemp('f_vit') / 'model.pth'
    meta = dict(dataset_meta=dict(classes=NAMES[:6], base_classes=NAMES[:6]))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), path)
    return DetInferencer('f_vit_shapes', path, device='cpu', show_progress=False), path


def test_a_model_that_classifies_by_text_detects_any_words(words, scenes):
    inferencer, _ = words
    first = inferencer(scenes[0])
    assert first['classes'] == NAMES[:6]
    inferencer.set_class_names(['heart', 'star', 'teapot'])
    second = inferencer(scenes[0])
    assert second['classes'] == ['heart', 'star', 'teapot'] and set(second['predictions'][0]['labels']) <= {0, 1, 2}
    assert inferencer.model.novel == [True, False, True]
    assert second['predictions'][0]['scores'] != first['predictions'][0]['scores']
    inferencer.set_class_names(NAMES[:6])
    same(inferencer(scenes[0])['predictions'][0], first['predictions'][0])


def test_detect_takes_any_words(words, scenes, tmp_path, capsys):
    cv2.imwrite(str(tmp_path / 'a.png'), scenes[0])
    arguments = [
        '--model',
        'f_vit_shapes',
        '--weights',
        str(words[1]),
        '--out',
        str(tmp_path / 'out'),
        '--device',
        'cpu',
    ]
    detect.main([str(tmp_path / 'a.png'), *arguments, '--classes', 'pink heart', 'moon', '--threshold', '0.01'])
    out = capsys.readouterr().out
    found = json.loads((tmp_path / 'out' / 'preds' / 'a.json').read_text())
    shown = sum(score > 0.01 for score in found['scores'])
    assert f'{shown} objects' in out and shown > 0 and set(found['labels']) <= {0, 1}
    lines = [line for line in out.splitlines() if line.startswith('  ')]
    assert len(lines) == shown and all('pink heart' in line or 'moon' in line for line in lines)


def test_the_page_detects_any_words_and_gives_files_of_annotation_tools(words, scenes, tmp_path):
    inferencer, path = words
    cv2.imwrite(str(tmp_path / 'a.png'), scenes[0])
    args = demo.parser().parse_args(['--model', 'f_vit_shapes', '--weights', str(path), '--device', 'cpu'])
    detector = demo.chosen_models(args)
    answer = detector.detect(str(tmp_path / 'a.png'), 'pink heart, moon', 0.1)
    inferencer.set_class_names(['pink heart', 'moon'])
    expected = inferencer(scenes[0])['predictions'][0]
    sure = [i for i, score in enumerate(expected['scores']) if score > 0.1]
    assert answer.classes == ['pink heart', 'moon'] and 0 < len(sure) < len(expected['scores'])
    np.testing.assert_allclose(answer.found['scores'], np.array(expected['scores'])[sure], atol=1e-5)
    shown, files = page.written(answer, 'a.png', str(tmp_path))
    with Image.open(shown) as image:
        assert shown.endswith('objects.png') and np.array_equal(np.array(image), answer.overlay)
    coco, labelme = (json.loads(Path(file).read_text()) for file in files)
    assert [Path(file).name for file in files] == ['a.objects.coco.json', 'a.objects.labelme.json']
    assert len(coco['annotations']) == len(labelme['shapes']) == len(sure) and labelme['imageHeight'] == 100
    assert detector.detect(str(tmp_path / 'a.png'), '', 0.1).classes == NAMES[:6]  # those of the training again
    with pytest.raises(DataError, match='image first'):
        detector.detect(None, 'moon', 0.3)


def test_requests_of_a_page_do_not_see_the_names_of_each_other(words, scenes, tmp_path):
    detector = page.Detector(words[0])
    cv2.imwrite(str(tmp_path / 'a.png'), scenes[0])
    asked = ['moon', 'heart, star', 'circle', 'ring, cross, teapot'] * 2
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda names: detector.detect(str(tmp_path / 'a.png'), names, 0.0), asked))
    for names, answer in zip(asked, found, strict=True):
        alone = detector.detect(str(tmp_path / 'a.png'), names, 0.0)
        assert answer.classes == names.split(', ') and answer.found == alone.found


@pytest.mark.parametrize(
    ('model', 'expected'),
    [(None, False), ('maskclip_vit-b16', False), ('cat_seg_shapes', False), ('f_vlm_shapes', True)],
)
def test_the_page_knows_detectors_by_their_configs(model, expected):
    assert demo.detects(model) == expected


def test_a_model_with_fixed_classes_is_shown_by_other_names_only(checkpoint):
    inferencer = DetInferencer('denseclip_mask-rcnn_shapes', checkpoint, device='cpu', show_progress=False)
    inferencer.set_class_names([*NAMES[:7], 'love'])
    assert inferencer.class_names[-1] == 'love'
    with pytest.raises(ConfigError, match='8 classes'):
        inferencer.set_class_names(['love'])
