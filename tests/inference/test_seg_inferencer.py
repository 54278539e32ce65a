from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from PIL import Image, ImageOps

from vlm_dense.colours import class_colours
from vlm_dense.datasets import DrawScene, ShapesDataset
from vlm_dense.engine.configs.names import CONFIGS
from vlm_dense.errors import CheckpointError, ClassNamesError, ConfigError, DataError, WeightsNotFoundError
from vlm_dense.inference import SegInferencer, maskclip_config
from vlm_dense.inference.maskclip_models import MASKCLIP

NAMES = ['circle', 'star', 'square', 'empty background']


@pytest.fixture(scope='module')
def inferencer():
    return SegInferencer('maskclip_tiny-rn', device='cpu', show_progress=False)


@pytest.fixture(scope='module')
def scenes():
    """uint8 (200, 256, 3) BGR; no two sides alike."""
    data = ShapesDataset(3, 'val', size=256, num_objects=(3, 4), label='shape', pipeline=[DrawScene()])
    return [np.ascontiguousarray(x['img'][:200]) for x in data]


def agreement(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float((a == b).mean())


# --- names ----------------------------------------------------------------------------------------------------


def test_each_call_takes_other_names_in_label_order(inferencer, scenes):
    first = inferencer(scenes[0], classes=NAMES)
    turned = inferencer(scenes[0], classes=NAMES[::-1])
    assert first['classes'] == NAMES and turned['classes'] == NAMES[::-1]
    assert len(np.unique(first['predictions'])) > 1
    np.testing.assert_array_equal(first['predictions'], 3 - turned['predictions'])
    fewer = inferencer(scenes[0], classes=NAMES[:2])['predictions']
    assert fewer.shape == (200, 256) and fewer.dtype == np.uint8 and fewer.max() <= 1


def test_a_class_may_have_several_names(inferencer, scenes):
    result = inferencer(scenes[0], classes=['circle', ['star', 'square'], 'empty background'])
    assert result['classes'] == ['circle', 'star', 'empty background']
    assert inferencer.view(['circle', ['star', 'square']]).model.decode_head.class_names == (
        ('circle',),
        ('star', 'square'),
    )
    assert result['predictions'].max() <= 2


def test_names_of_the_constructor_serve_calls_without(scenes):
    own = SegInferencer('maskclip_tiny-rn', device='cpu', classes=NAMES, show_progress=False)
    assert own(scenes[0], classes=['circle', 'star'])['classes'] == ['circle', 'star']
    assert own(scenes[0])['classes'] == NAMES


@pytest.mark.parametrize(
    ('classes', 'message'),
    [
        (None, 'found none'),
        ([], 'empty list'),
        (['road', 'sky', 'road'], "'road' is the name of class 0 and of class 2"),
        (['road', ''], 'no name'),
        (['road', ' '.join(['long'] * 100)], 'tokens'),
        (['road'], 'would be everywhere'),
        ('vocc20', 'voc20'),
    ],
)
def test_names_that_cannot_be_used_are_refused_and_the_old_ones_stay(inferencer, scenes, classes, message):
    before = inferencer(scenes[0], classes=NAMES)['predictions']
    with pytest.raises(ClassNamesError, match=message):
        inferencer(scenes[0], classes=classes)
    assert inferencer.class_names is None
    np.testing.assert_array_equal(inferencer(scenes[0], classes=NAMES)['predictions'], before)


def test_calls_at_the_same_time_do_not_see_each_other(inferencer, scenes):
    lists = [NAMES, NAMES[::-1], NAMES[:2], ['circle', ['star', 'square']], ['heart', 'ring', 'cross']]
    alone = [inferencer(scenes[0], classes=names, return_scores=k % 2 == 0) for k, names in enumerate(lists)]
    before = {k: v.clone() for k, v in inferencer.model.state_dict().items()}

    def ask(turn: int) -> bool:
        k = turn % len(lists)
        found = inferencer(scenes[0], classes=lists[k], return_scores=k % 2 == 0)
        same = found['classes'] == alone[k]['classes'] and ('scores' in found) == ('scores' in alone[k])
        return same and np.array_equal(found['predictions'], alone[k]['predictions'])

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(30)))
    assert inferencer.model.decode_head.class_names == (('any',), ('names',), ('until a call gives some',))
    assert all(torch.equal(v, before[k]) for k, v in inferencer.model.state_dict().items())


def test_views_share_the_weights_and_are_few(inferencer, scenes):
    view = inferencer.view(NAMES)
    assert inferencer.view(NAMES) is view and inferencer.view(NAMES, return_scores=True) is not view
    own = dict(inferencer.model.named_parameters())
    assert all(p is own[name] for name, p in view.model.named_parameters())
    for i in range(40):
        inferencer.view([f'name {i}', 'other'])
    assert len(inferencer._views._kept) <= 16


def test_a_model_that_finds_a_background_keeps_it_first(scenes):
    shapes = SegInferencer('maskclip_tiny-rn_shapes', device='cpu', show_progress=False)
    assert shapes(scenes[0])['classes'][:2] == ['background', 'circle']
    given = shapes(scenes[0], classes=['circle', 'star'])
    assert given['classes'] == ['background', 'circle', 'star']
    same = shapes(scenes[0], classes=['background', 'circle', 'star'])
    np.testing.assert_array_equal(given['predictions'], same['predictions'])
    assert (given['predictions'] == 0).any()


# --- images in ----------------------------------------------------------------------------------------------


def test_paths_arrays_lists_and_folders_give_the_same(inferencer, scenes, tmp_path):
    for i, scene in enumerate(scenes):
        cv2.imwrite(str(tmp_path / f'{i}.png'), scene)
    (tmp_path / 'notes.txt').write_text('no image')
    arrays = inferencer(scenes, classes=NAMES)['predictions']
    folder = inferencer(tmp_path, classes=NAMES)['predictions']
    mixed = inferencer([str(tmp_path / '0.png'), scenes[1], tmp_path / '2.png'], classes=NAMES)['predictions']
    np.testing.assert_array_equal(arrays, folder)
    np.testing.assert_array_equal(arrays, mixed)
    np.testing.assert_array_equal(arrays[0], inferencer(str(tmp_path / '0.png'), classes=NAMES)['predictions'])


def test_images_of_different_size_in_a_batch_do_not_see_each_other(inferencer, scenes):
    images = [scenes[0], scenes[1][:120], scenes[2][:, :90]]
    together = inferencer(images, classes=NAMES, batch_size=3)['predictions']
    for image, labels in zip(images, together, strict=True):
        assert agreement(labels, inferencer(image, classes=NAMES)['predictions']) > 0.999


@pytest.mark.parametrize('model', ['maskclip_tiny-rn', 'maskclip_tiny-rn_shapes'])  # resizes; takes pixels as they are
def test_an_image_smaller_than_a_patch_is_segmented(scenes, model, tmp_path):
    small = SegInferencer(model, device='cpu', show_progress=False)
    for size in ((1, 1), (3, 5), (7, 40)):
        result = small(cv2.resize(scenes[0], size[::-1]), classes=['circle', 'star'], out_dir=tmp_path)
        assert result['predictions'].shape == size
        with Image.open(result['files']['vis']) as image:
            assert image.width > 480


def test_an_image_of_8000_x_200_is_segmented(inferencer, scenes, tmp_path):
    wide = np.tile(scenes[0], (1, 32, 1))[:, :8000]
    result = inferencer(wide, classes=NAMES, out_dir=tmp_path)
    assert result['predictions'].shape == (200, 8000)
    with Image.open(result['files']['vis']) as image:
        assert image.width < 2000


def test_an_image_too_narrow_to_resize_is_a_message(inferencer):
    with pytest.raises(DataError, match='5000 x 1 px'):
        inferencer(np.zeros((1, 5000, 3), np.uint8), classes=NAMES)


def test_a_16_bit_png_is_segmented_as_its_8_bit_twin(inferencer, scenes, tmp_path):
    path = str(tmp_path / 'wide.png')
    cv2.imwrite(path, scenes[0].astype(np.uint16) * 257)
    assert cv2.imread(path, cv2.IMREAD_UNCHANGED).dtype == np.uint16
    expected = inferencer(scenes[0], classes=NAMES)['predictions']
    np.testing.assert_array_equal(inferencer(path, classes=NAMES)['predictions'], expected)


def test_a_cmyk_jpeg_is_segmented_as_its_rgb_twin(inferencer, scenes, tmp_path):
    path = str(tmp_path / 'print.jpg')
    Image.fromarray(scenes[0][..., ::-1]).convert('CMYK').save(path, quality=98)
    assert Image.open(path).mode == 'CMYK'
    expected = inferencer(scenes[0], classes=NAMES)['predictions']
    assert agreement(inferencer(path, classes=NAMES)['predictions'], expected) > 0.95


@pytest.mark.parametrize('orientation', range(2, 9))
def test_the_mask_of_a_turned_photo_lies_on_the_image_as_shown(inferencer, scenes, tmp_path, orientation):
    path = str(tmp_path / 'photo.jpg')
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(scenes[0][..., ::-1]).save(path, quality=95, exif=exif)
    shown = np.array(ImageOps.exif_transpose(Image.open(path)))[..., ::-1]  # Pillow's reading, BGR
    result = inferencer(path, classes=NAMES, return_vis=True, opacity=0.0)
    assert agreement(result['predictions'], inferencer(shown, classes=NAMES)['predictions']) > 0.99
    assert (
        agreement(
            result['visualization'], inferencer(shown, classes=NAMES, return_vis=True, opacity=0.0)['visualization']
        )
        > 0.9
    )  # the same image under the masks, and the same legend


@pytest.mark.parametrize('kind', ['cut', 'junk', 'empty', 'absent'])
def test_a_file_that_is_no_whole_image_is_named(inferencer, scenes, tmp_path, kind):
    path = tmp_path / 'photo.jpg'
    Image.fromarray(scenes[0]).save(path)
    whole = path.read_bytes()
    path.write_bytes({'cut': whole[: len(whole) // 2], 'junk': whole[:3] + bytes(400)}.get(kind, b''))
    if kind == 'absent':
        path.unlink()
    with pytest.raises(DataError, match='photo.jpg'):
        inferencer(path, classes=NAMES)


@pytest.mark.parametrize(
    'source',
    [
        np.zeros((10,), np.uint8),
        np.zeros((10, 10, 5), np.uint8),
        np.full((10, 10, 3), 2, np.float32),
        np.zeros((0, 10, 3), np.uint8),
        [],
        7,
    ],
)
def test_what_is_no_image_is_a_message(inferencer, source):
    with pytest.raises(DataError, match='Expected'):
        inferencer(source, classes=NAMES)


def test_a_folder_without_images_is_a_message(inferencer, tmp_path):
    with pytest.raises(DataError, match='no image'):
        inferencer(tmp_path, classes=NAMES)


# --- results --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('head', [{}, dict(pd_thresh=0.5), dict(ks_thresh=1.0)])
def test_scores_are_probabilities_and_the_greatest_is_the_label(scenes, head):
    cfg = maskclip_config('tiny-rn', 'bundled')
    cfg.model.decode_head = head
    result = SegInferencer(cfg, device='cpu', show_progress=False)(scenes[0], classes=NAMES, return_scores=True)
    scores, labels = result['scores'], result['predictions']
    assert scores.shape == (4, 200, 256) and scores.dtype == np.float32
    np.testing.assert_allclose(scores.sum(0), 1, atol=1e-4)
    assert agreement(scores.argmax(0), labels) > 0.999


def test_samples_are_those_of_mmseg(inferencer, scenes):
    samples = inferencer(scenes, classes=NAMES, return_datasamples=True)
    plain = inferencer(scenes, classes=NAMES)['predictions']
    for sample, labels in zip(samples, plain, strict=True):
        np.testing.assert_array_equal(sample.pred_sem_seg.data[0].numpy(), labels)


def test_saved_labels_equal_the_result_and_the_image_has_a_legend(inferencer, scenes, tmp_path):
    result = inferencer(scenes[0], classes=NAMES, out_dir=tmp_path, return_vis=True)
    assert {k: p.removeprefix(f'{tmp_path}/') for k, p in result['files'].items()} == dict(
        vis='vis/00000000.png', pred='pred/00000000.png'
    )
    with Image.open(result['files']['pred']) as labels:
        assert labels.mode == 'P'
        np.testing.assert_array_equal(np.array(labels), result['predictions'])
    with Image.open(result['files']['vis']) as image:
        image = np.array(image.convert('RGB'))
    np.testing.assert_array_equal(image, result['visualization'])
    for label in np.unique(result['predictions']):  # pure colours are in the legend only
        assert (image == class_colours(NAMES)[label]).all(axis=-1).sum() > 100


def test_images_of_one_name_do_not_overwrite_each_other(inferencer, scenes, tmp_path):
    paths = [tmp_path / folder / 'a.png' for folder in 'xy']
    for path, scene in zip(paths, scenes, strict=False):
        path.parent.mkdir()
        cv2.imwrite(str(path), scene)
    files = inferencer(paths, classes=NAMES, out_dir=tmp_path / 'out')['files']
    assert [f['pred'].rpartition('/')[2] for f in files] == ['a.png', 'a_2.png']


def test_a_place_that_cannot_be_written_is_a_message(inferencer, scenes, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(DataError, match='cannot be written'):
        inferencer(scenes[0], classes=NAMES, out_dir=tmp_path / 'file')


def test_colours_differ_and_stay_when_classes_are_added():
    names = ['background', 'sky', *(f'class {i}' for i in range(169))]
    assert len(set(class_colours(names))) == 171
    assert class_colours(names)[:20] == class_colours(names[:20])


# --- models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', MASKCLIP)
def test_a_name_means_the_model_of_the_config(name):
    ours = maskclip_config(*MASKCLIP[name]).model
    theirs = Config.fromfile(CONFIGS / '_base_' / 'models' / f'{name}.py').model
    plain = {k: v for k, v in theirs.data_preprocessor.items() if k not in ('pad_val', 'seg_pad_val', 'mean', 'std')}
    assert {k: v for k, v in ours.data_preprocessor.items() if k not in ('mean', 'std')} == plain
    for key in ('mean', 'std'):
        np.testing.assert_allclose(ours.data_preprocessor[key], theirs.data_preprocessor[key], rtol=1e-6)
    defaults = dict(type=theirs.type, backbone=theirs.backbone, text_encoder=theirs.text_encoder)
    assert {k: ours[k] for k in defaults} == defaults and ours.test_cfg == theirs.test_cfg


def test_a_model_that_knows_shapes_only_says_so():
    assert 'only knows drawn shapes' in SegInferencer(device='cpu').limits
    assert SegInferencer(maskclip_config('tiny-rn', None), device='cpu').limits is None


@pytest.mark.parametrize(
    ('model', 'error', 'message'),
    [
        ('maskclip_vitb16', ConfigError, "Did you mean 'maskclip_vit-b16'"),
        ('configs/nothing.py', ConfigError, 'does not exist'),
        ('denseclip_vpt_shapes', ConfigError, 'name a checkpoint'),
    ],
)
def test_a_model_that_cannot_be_used_is_a_message(model, error, message):
    with pytest.raises(error, match=message):
        SegInferencer(model, device='cpu')


def test_an_unknown_clip_and_absent_weights_are_messages():
    with pytest.raises(ConfigError, match='ViT-B-16'):
        maskclip_config('ViT-B16', 'openai')
    with pytest.raises(WeightsNotFoundError, match='nowhere.pt'):
        SegInferencer(maskclip_config('RN50', '/nowhere.pt'), device='cpu')


def test_a_trained_model_has_its_own_classes(scenes, tmp_path):
    cfg = Config.fromfile(CONFIGS / 'denseclip_shapes.py')
    names = ShapesDataset(1, label='shape', background=True).metainfo['classes']
    torch.manual_seed(3)
    model = MODELS.build(dict(cfg.model, class_names=names))
    path = tmp_path / 'model.pth'
    torch.save(dict(state_dict=model.state_dict(), meta=dict(dataset_meta=dict(classes=names))), path)
    trained = SegInferencer('denseclip_shapes', str(path), device='cpu', show_progress=False)
    result = trained(scenes[0], return_scores=True)
    assert result['classes'] == list(names) and result['predictions'].shape == (200, 256)
    np.testing.assert_array_equal(result['scores'].argmax(0), result['predictions'])
    for key, value in model.state_dict().items():
        assert torch.equal(value, trained.model.state_dict()[key]), key
    with pytest.raises(ClassNamesError, match='takes no others'):
        trained(scenes[0], classes=NAMES)
    torch.save(dict(state_dict=dict(list(model.state_dict().items())[3:]), meta={}), path)
    with pytest.raises(CheckpointError, match='3 missing'):
        SegInferencer('denseclip_shapes', str(path), device='cpu')
