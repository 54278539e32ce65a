"""Masks for a folder of images: complete, resumed, never half written, and trainable."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.toy import write_config, write_data
from PIL import Image
from safetensors.torch import save_file
from tiny_towers import vit

from vlm_dense.cli import label
from vlm_dense.cli import pseudo_label as tool
from vlm_dense.cli import train as train_tool
from vlm_dense.clip.loading import load_clip
from vlm_dense.datasets.checks import LoadImage
from vlm_dense.errors import DataError
from vlm_dense.inference import SegInferencer
from vlm_dense.inference import pseudo_label as library
from vlm_dense.inference.bulk.sources import folder_items
from vlm_dense.inference.bulk.worker import Worker
from vlm_dense.inference.pseudo_label import pseudo_label

TOOLS = Path(__file__).parents[2] / 'tools'

ARCH = vit(text=dict(width=16, heads=1, layers=1), layers=1)
CONFIG = """
clip = dict(arch={arch}, pretrained={weights!r})
model = dict(
    type='vlm_dense.MaskCLIP',
    class_names=['sky', 'road', 'car'],
    data_preprocessor=dict(type='vlm_dense.MixedSizeSegDataPreProcessor', mean=[127.5] * 3, std=[60.0] * 3),
    backbone=dict(type='vlm_dense.MaskCLIPViT', **clip),
    text_encoder=dict(type='vlm_dense.TextTower', **clip),
    text_prompt=dict(type='vlm_dense.ZeroShotPrompt'),
    test_cfg=dict(mode='whole', keep_logits=False))
test_pipeline = [dict(type='vlm_dense.LoadImage'), dict(type='Resize', scale=(96, 64), keep_ratio=True),
                 dict(type='PackSegInputs')]
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('model')
    torch.manual_seed(0)
    weights = str(folder / 'clip.safetensors')
    save_file({k: v.contiguous() for k, v in load_clip(ARCH).state_dict().items() if k != 'attn_mask'}, weights)
    path = folder / 'maskclip.py'
    path.write_text(CONFIG.format(arch=ARCH, weights=weights))
    return str(path)


@pytest.fixture
def images(tmp_path):
    """Five images of different size, in two folders."""
    rng = np.random.RandomState(0)
    folder = tmp_path / 'images'
    for i, name in enumerate(('a.jpg', 'b.png', 'c.jpg', 'more/a.jpg', 'more/d.JPG')):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.randint(0, 256, (3, 4 + i, 3)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
        Image.fromarray(blocks).save(path, 'PNG' if name.endswith('png') else 'JPEG')
    return folder


def masks(out: Path) -> dict[str, np.ndarray]:
    return {p.relative_to(out).as_posix(): np.asarray(Image.open(p)) for p in sorted(out.rglob('*.png'))}


def run(*argv) -> dict:
    return tool.main([str(a) for a in argv])


def complaint(capsys, *argv) -> str:
    with pytest.raises(SystemExit) as left:
        run(*argv)
    assert left.value.code == 2
    message = capsys.readouterr().err
    assert 'Traceback' not in message
    return message


def test_masks_hold_the_labels_of_the_model_and_ignore_where_it_is_unsure(config, images, tmp_path):
    everything = run(config, images, tmp_path / 'all')
    sure = run(config, 'none', images, tmp_path / 'sure', '--thresh', 0.9, '--batch-size', 3)
    assert everything['kept'] == 1 and 0.02 < sure['kept'] < 0.98
    every, some = masks(tmp_path / 'all'), masks(tmp_path / 'sure')
    assert list(every) == list(some) == ['a.png', 'b.png', 'c.png', 'more/a.png', 'more/d.png']
    inferencer = SegInferencer(config, show_progress=False)
    for (name, full), part in zip(every.items(), some.values(), strict=True):
        path = next(p for p in images.rglob('*.*') if p.relative_to(images).with_suffix('.png').as_posix() == name)
        wanted = inferencer(str(path), return_scores=True)
        assert np.array_equal(full, wanted['predictions'])
        assert np.array_equal(part, np.where(wanted['scores'].max(0) < 0.9, 255, wanted['predictions']))
    pixels = np.concatenate([m.ravel() for m in some.values()])
    assert sure['kept'] == pytest.approx((pixels != 255).mean())
    assert sure['histogram']['road'] == pytest.approx((pixels == 1).sum() / (pixels != 255).sum())
    assert sure['images']['road'] == sum((m == 1).any() for m in some.values())
    assert json.loads((tmp_path / 'sure' / 'pseudo_labels.json').read_text()) == sure


def test_a_second_run_does_parts_with_a_missing_mask_or_another_image_and_nothing_else(
    config, images, tmp_path, monkeypatch
):
    monkeypatch.setattr(library, '_PART', 2)  # a and b, c and more/a, more/d
    out = tmp_path / 'masks'
    assert run(config, images, out)['new'] == 5
    before = masks(out)
    (out / 'a.png').unlink()
    Image.effect_noise((8, 8), 9).save(images / 'more' / 'd.JPG')  # another image of the same name
    before.pop('more/d.png')
    times = {p: p.stat().st_mtime_ns for p in (out / 'c.png', out / 'more' / 'a.png')}
    summary = run(config, images, out)
    assert summary['masks'] == 5 and summary['new'] == 3
    assert all(p.stat().st_mtime_ns == time for p, time in times.items())
    assert all(np.array_equal(masks(out)[name], m) for name, m in before.items())
    assert masks(out)['more/d.png'].shape == (8, 8) and run(config, images, out)['new'] == 0


def test_a_run_that_is_stopped_keeps_its_parts_and_leaves_no_half_mask(config, images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(library, '_PART', 2)
    compute, seen = Worker.compute, []

    def stop_at_second(worker, batch):
        seen.append(batch.keys)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return compute(worker, batch)

    monkeypatch.setattr(Worker, 'compute', stop_at_second)
    out = tmp_path / 'masks'
    with pytest.raises(SystemExit, match='2'):
        run(config, images, out)
    assert 'run the same again' in capsys.readouterr().err
    assert list(masks(out)) == ['a.png', 'b.png']
    assert run(config, images, out)['new'] == 3
    assert not list(out.rglob('*partial*'))


def test_several_processes_write_the_same_masks(config, images, tmp_path):
    run(config, images, tmp_path / 'one')
    command = [sys.executable, TOOLS / 'pseudo_label.py', config, images, tmp_path / 'two', '--processes', '2', '-q']
    environment = {**os.environ, 'PYTHONPATH': str(TOOLS.parent), 'OMP_NUM_THREADS': '1'}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)  # its children import the file
    assert done.returncode == 0 and '5 masks' in done.stdout and 'Pseudo-labels' not in done.stdout, done.stderr
    one, two = masks(tmp_path / 'one'), masks(tmp_path / 'two')
    assert len(one) == 5 and list(one) == list(two)
    assert all(np.array_equal(one[name], two[name]) for name in one)


def test_bad_files_are_listed_and_left_out(config, images, tmp_path, capsys):
    (images / 'empty.jpg').touch()
    (images / 'text.png').write_text('not an image')
    (images / 'notes.txt').write_text('not meant')
    Image.fromarray(np.zeros((1, 3000, 3), np.uint8)).save(images / 'line.png')
    summary = run(config, images, tmp_path / 'masks', '--batch-size', 4)
    assert summary['masks'] == 5
    assert {Path(p).name for p in summary['bad_files']} == {'empty.jpg', 'text.png', 'line.png'}
    assert '3 images could not be labelled' in capsys.readouterr().out
    listed = (tmp_path / 'masks' / 'labelled.txt').read_text().split()
    assert listed == ['a', 'b', 'c', 'more/a', 'more/d']


def test_masks_fit_the_image_as_training_loads_it(config, tmp_path):
    folder, out = tmp_path / 'images', tmp_path / 'masks'
    folder.mkdir()
    rng = np.random.RandomState(0)
    colours = rng.randint(0, 256, (48, 80, 3)).astype(np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(colours).save(folder / 'exif.jpg', exif=turned)
    Image.fromarray(colours).convert('CMYK').save(folder / 'cmyk.jpg')
    Image.fromarray(rng.randint(0, 65536, (40, 56)).astype(np.uint16)).save(folder / 'wide.png')
    assert run(config, folder, out)['masks'] == 3
    for path in folder.iterdir():
        shown = LoadImage().transform(dict(img_path=str(path)))['img']
        assert masks(out)[f'{path.stem}.png'].shape == shown.shape[:2]
    assert masks(out)['exif.png'].shape == (80, 48)
    assert run(config, folder, out)['new'] == 0


def test_an_ordinary_segmentor_trains_on_the_masks(config, tmp_path):
    data = write_data(tmp_path / 'data')
    (data / 'images' / 'train' / '3.png').write_bytes(b'broken')
    run(config, data / 'images' / 'train', data / 'pseudo')
    options = [
        'train_dataloader.dataset.data_prefix.seg_map_path=pseudo',
        'train_dataloader.dataset.ann_file=pseudo/labelled.txt',
        'train_cfg.max_iters=2',
    ]
    toy = write_config(tmp_path, data, name='on_pseudo_labels')
    train_tool.main([toy, '--work-dir', str(tmp_path / 'work'), '--cfg-options', *options])
    assert (tmp_path / 'work' / 'iter_2.pth').is_file()


def test_masks_of_two_runs_are_not_mixed(config, images, tmp_path, capsys):
    run(config, images, tmp_path / 'masks')
    message = complaint(capsys, config, images, tmp_path / 'masks', '--thresh', 0.5)
    assert 'results of another run' in message and 'thresh=0.0 (now 0.5)' in message


def test_masks_of_somebody_else_are_neither_adopted_nor_replaced(config, images, tmp_path, capsys):
    out = tmp_path / 'masks'
    out.mkdir()
    Image.fromarray(np.full((48, 64), 200, np.uint8)).save(out / 'a.png')
    before = (out / 'a.png').read_bytes()
    assert 'no results of this program, as a.png' in complaint(capsys, config, images, out)
    assert (out / 'a.png').read_bytes() == before


def test_a_mask_that_was_painted_over_is_left(config, images, tmp_path, capsys):
    out = tmp_path / 'masks'
    run(config, images, out)
    painted = masks(out)['a.png'].copy()
    painted[:4] = 99
    Image.fromarray(painted).save(out / 'a.png')
    assert run(config, images, out)['new'] == 0
    (out / 'b.png').unlink()  # of the same part
    message = complaint(capsys, config, images, out)
    assert 'a.png was changed after it was written, and part-000000 has to be done again' in message
    assert np.array_equal(masks(out)['a.png'], painted)
    (out / 'a.png').unlink()
    assert run(config, images, out)['new'] == 5


def test_other_weights_at_the_same_path_are_another_run(config, images, tmp_path, capsys):
    weights = tmp_path / 'clip.safetensors'
    text = Path(config).read_text()
    old = re.search(r"pretrained='(.*?)'", text)[1]
    own = tmp_path / 'maskclip.py'
    own.write_text(text.replace(old, str(weights)))
    shutil.copy(old, weights)
    run(own, images, tmp_path / 'masks')
    torch.manual_seed(1)
    save_file({k: v.contiguous() for k, v in load_clip(ARCH).state_dict().items() if k != 'attn_mask'}, weights)
    assert 'results of another run: digest=' in complaint(capsys, own, images, tmp_path / 'masks')


def test_folders_that_cannot_work_are_refused(config, images, tmp_path, capsys):
    assert 'no folder of images' in complaint(capsys, config, tmp_path / 'absent', tmp_path / 'out')
    (tmp_path / 'none').mkdir()
    assert 'holds no image' in complaint(capsys, config, tmp_path / 'none', tmp_path / 'out')
    assert 'give another folder' in complaint(capsys, config, images, images) and not list(images.glob('.*'))
    Image.new('RGB', (32, 32)).save(images / 'a.png')
    assert 'have the name a. Rename one of them' in complaint(capsys, config, images, tmp_path / 'out')


def test_nothing_that_could_be_labelled_is_an_error(config, tmp_path, capsys):
    (tmp_path / 'bad').mkdir()
    (tmp_path / 'bad' / 'a.jpg').write_text('no image')
    assert 'None of the 1 images' in complaint(capsys, config, tmp_path / 'bad', tmp_path / 'out')


def test_masks_inside_the_folder_of_images_are_no_images(config, images):
    out = images / 'masks'
    assert run(config, images, out)['masks'] == run(config, images, out)['masks'] == 5


@pytest.mark.parametrize('options', [dict(thresh=1.0), dict(thresh=-0.1), dict(processes=0), dict(batch_size=0)])
def test_options_out_of_range_are_refused(config, images, tmp_path, options):
    with pytest.raises(ValueError, match='found'):
        pseudo_label(config, None, images, tmp_path / 'out', show_progress=False, **options)
    assert not os.path.exists(tmp_path / 'out')


def test_masks_are_the_bytes_that_label_writes(config, images, tmp_path):
    run(config, 'none', images, tmp_path / 'old', '--thresh', 0.5, '-q')
    words = ['--model', config, '--thresh', '0.5', '--batch-size', '1', '-q']
    label.main([str(images), str(tmp_path / 'new'), *words])
    old, new = (
        {p.relative_to(f): p.read_bytes() for p in f.rglob('*.png')} for f in (tmp_path / 'old', tmp_path / 'new')
    )
    assert old == new and len(new) == 5


def test_two_images_of_one_name_are_told_also_with_others_between(tmp_path):
    for name in ('a.jpg', 'a.jpg.png', 'a.png'):
        (tmp_path / name).touch()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a.jpg', 'a.jpg.png', 'a.png']
    with pytest.raises(DataError, match='have the name a. Rename one of them'):
        list(folder_items(str(tmp_path), tmp_path / 'out'))
