"""Files, places and models that no program was made for: each is told in one message, or works."""

from __future__ import annotations

import importlib
import os
import resource
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from engine.toy import write_config, write_data
from faults.hostile import PHOTO, write
from faults.test_bad_inputs import refused

from vlm_dense.cli import check_data, detect, export, segment, train
from vlm_dense.datasets.checks import LoadImage, LoadMask
from vlm_dense.errors import DataError
from vlm_dense.ops import late

ODD = os.fsdecode(b'\xff\xfe.png')  # no UTF-8
SHAPES = ['--classes', 'circle', 'star', '--device', 'cpu']


@pytest.fixture
def own(tmp_path):
    """Images and masks in the layout of one's own data."""
    data = write_data(tmp_path / 'data', train=6, val=0)
    (data / 'images' / 'val').rmdir()
    for kind, place in (('images', 'images'), ('masks', 'annotations')):
        shutil.move(data / kind / 'train', tmp_path / 'own' / place)
    return tmp_path / 'own'


def checked(own, *words) -> int:
    classes = ['--classes', 'sky', 'road', 'car']
    return check_data.main(
        ['denseclip_own-masks', '--data-root', str(own), *classes, '--out', str(own / 'out'), *words]
    )


def test_two_images_that_share_a_mask_are_a_fault(own, capsys):
    shutil.copy(own / 'images' / '0.png', own / 'images' / '0.jpg')
    assert checked(own) == 1
    assert '0.jpg and 0.png would share one mask' in capsys.readouterr().out.replace(f'{own / "images"}/', '')


def test_masks_without_image_are_told(own, capsys):
    shutil.copy(own / 'annotations' / '0.png', own / 'annotations' / 'alone.png')
    assert checked(own) == 0
    assert 'belong to no image and are left out: alone.png' in capsys.readouterr().out


def test_what_a_training_would_refuse_is_a_fault_of_the_data(tmp_path, capsys):
    data = write_data(tmp_path / 'data', train=2, val=2)
    line = "val_dataloader['dataset'] = dict(val_dataloader['dataset'], metainfo=dict(classes=('road', 'sky', 'car')))"
    config = write_config(tmp_path, data, line)
    assert check_data.main([config, '--out', str(tmp_path / 'out')]) == 1
    assert 'The classes of train_dataloader and val_dataloader differ' in capsys.readouterr().out
    refused(capsys, 'classes of train_dataloader and val_dataloader differ', train.main, config, '--work-dir', tmp_path)


@pytest.mark.parametrize('scheme', ['file', 's3', 'gs', 'petrel'])
def test_an_image_in_a_storage_that_cannot_be_read_is_told(scheme):
    path = f'{scheme}://bucket/a.png'
    for step, key in ((LoadImage(), 'img_path'), (LoadMask(), 'seg_map_path')):
        with pytest.raises(DataError, match=f'{path} lies in a storage that cannot be read'):
            step.transform({key: path, 'reduce_zero_label': False, 'seg_fields': []})


def test_an_image_that_cannot_be_downloaded_is_told_why():
    with pytest.raises(DataError, match='cannot be read: .*refused'):
        LoadImage().transform(dict(img_path='http://127.0.0.1:1/a.png'))


def test_names_that_are_no_utf8_are_printed_and_kept(tmp_path, capfdbinary):
    write(tmp_path / 'in' / ODD, PHOTO)
    segment.main([str(tmp_path / 'in'), '--out', str(tmp_path / 'out'), '--quiet', *SHAPES])
    assert rb'\udcff\udcfe.png' in capfdbinary.readouterr().out
    assert (tmp_path / 'out' / 'vis' / ODD).is_file()


@pytest.mark.parametrize('odd', [f'cat/{ODD}', f'{ODD}/0.png'])
def test_class_folders_with_names_that_are_no_utf8(odd, tmp_path, capfdbinary):
    for name in ('cat', 'dog'):
        for i in range(6):
            write(tmp_path / 'data' / name / f'{i}.png', PHOTO)
    for i in range(6):
        write(tmp_path / 'data' / odd.replace('0', str(i)), PHOTO)
    status = check_data.main(
        ['coop_own-folders', '--data-root', str(tmp_path / 'data'), '--out', str(tmp_path / 'out')]
    )
    told = capfdbinary.readouterr().out
    assert (status, b'is no text in UTF-8' in told) == ((0, False) if odd.startswith('cat') else (1, True))


def test_a_model_of_another_task_is_refused(tmp_path, capsys):
    image = write(tmp_path / 'a.png', PHOTO)
    words = ['--out', tmp_path / 'out', '--device', 'cpu']
    message = refused(capsys, 'which is no segmentor', segment.main, image, '--model', 'zero_shot_shapes', *words)
    assert 'zero_shot_shapes' in message and 'CLIPClassifier' in message
    refused(capsys, 'is a DenseCLIP, which is no detector', detect.main, image, '--model', 'denseclip_shapes', *words)


def test_a_working_directory_that_was_removed_is_told(tmp_path, capsys, monkeypatch):
    config = write_config(tmp_path, write_data(tmp_path / 'data', train=2, val=2))
    (tmp_path / 'gone').mkdir()
    monkeypatch.chdir(tmp_path / 'gone')
    (tmp_path / 'gone').rmdir()
    monkeypatch.setattr('sys.argv', ['tools/check_data.py'])
    refused(capsys, 'The working directory was removed', check_data.main, config)
    refused(capsys, 'The working directory was removed', segment.main, 'a.png', *SHAPES)


def test_an_export_onto_a_full_disk_is_told_and_leaves_nothing(tmp_path, capsys):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))  # a file of more bytes cannot be written
    try:
        words = ['maskclip_tiny-vit_shapes', '--classes', 'circle', 'star', '--size', '32', '32']
        refused(capsys, 'cannot be written', export.main, *words, '--out', tmp_path / 'a.pt2')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not [path for path in tmp_path.iterdir() if path.suffix == '.pt2']


def test_a_checkpoint_without_schedule_or_with_odd_classes_is_refused(tmp_path, capsys):
    data = write_data(tmp_path / 'data', train=2, val=2)
    config = write_config(tmp_path, data, "train_cfg['max_iters'] = 1")
    train.main([config, '--work-dir', str(tmp_path / 'a')])
    whole = torch.load(tmp_path / 'a' / 'iter_1.pth', weights_only=False)
    torch.save(dict(whole, param_schedulers=[]), tmp_path / 'b.pth')
    words = [config, '--work-dir', tmp_path / 'w', '--cfg-options', 'train_cfg.max_iters=2']
    refused(capsys, 'it holds no param_schedulers', train.main, *words, '--resume', tmp_path / 'b.pth')
    torch.save(dict(whole, meta=dict(whole['meta'], dataset_meta=dict(classes=5))), tmp_path / 'c.pth')
    refused(capsys, "meta['dataset_meta']['classes'] is 5", train.main, *words, '--load-from', tmp_path / 'c.pth')


def test_every_import_of_a_try_that_failed_is_bound_late(tmp_path, monkeypatch):
    path = tmp_path / 'made_up.py'
    path.write_text(
        'try:\n    from mmcv.ops import point_sample\n'
        '    from ..utils.point_sample import get_uncertain_point_coords_with_randomness as get\n'
        'except ModuleNotFoundError:\n    point_sample = get = None\n'
    )
    module = ModuleType('mmseg.models.decode_heads.made_up')
    module.__file__, module.__package__ = str(path), 'mmseg.models.decode_heads'
    module.point_sample = module.get = None
    monkeypatch.setitem(sys.modules, module.__name__, module)
    late.replace_fallbacks()
    utils = importlib.import_module('mmseg.models.utils.point_sample')
    assert module.get is utils.get_uncertain_point_coords_with_randomness
    assert module.point_sample is importlib.import_module('mmcv.ops').point_sample


def test_the_san_head_of_mmseg_has_both_functions():
    head = importlib.import_module('mmseg.models.decode_heads.san_head')
    assert head.point_sample is not None and head.get_uncertain_point_coords_with_randomness is not None
    assert Path(head.__file__).is_file()
