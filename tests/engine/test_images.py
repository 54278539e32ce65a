from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from PIL import Image

from vlm_dense.drawing import colour
from vlm_dense.engine.hooks.images import PredictionPictureHook

META = dict(classes=('sky', 'road'), palette=[[255, 0, 0], [0, 255, 0]])
BLUE_BGR = torch.tensor([255, 0, 0], dtype=torch.uint8)


class Three:
    """A data set of three samples, of which only the length is asked."""

    metainfo = META

    def __len__(self):
        return 3


@pytest.fixture
def runner(tmp_path):
    loader = SimpleNamespace(dataset=Three())
    model = SimpleNamespace(data_preprocessor=SimpleNamespace(channel_conversion=True))
    return SimpleNamespace(
        work_dir=str(tmp_path),
        iter=7,
        model=model,
        val_dataloader=loader,
        test_dataloader=loader,
        logger=logging.getLogger('test'),
    )


def sample(height, width, path=None):
    maps = dict(pred_sem_seg=torch.ones(1, height, width), gt_sem_seg=torch.zeros(1, height, width))
    made = SegDataSample(metainfo=dict(img_path=path))
    for key, value in maps.items():
        made.set_data({key: PixelData(data=value.long())})
    return made


def batch(*sizes):
    return dict(inputs=[BLUE_BGR[:, None, None].expand(3, h, w) for h, w in sizes])


def test_one_image_a_validation_shows_image_truth_and_prediction_of_any_size(runner, tmp_path):
    hook = PredictionPictureHook(num_samples=2, tile=64)
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 0, batch((30, 60), (20, 20)), [sample(30, 60), sample(20, 20)])  # the second: neither
    hook.after_val_iter(runner, 1, batch((64, 16)), [sample(32, 8)])  # first nor last of the set
    hook.after_val_epoch(runner, dict(mIoU=np.float32(50)))
    (path,) = (tmp_path / 'vis').glob('*.png')
    image = np.asarray(Image.open(path))
    assert path.name == 'iter_7.png' and image.shape[1] == 3 * 70 + 6
    assert image[50, 30].tolist() == [0, 0, 255]  # the BGR input is shown as blue
    assert image[50, 100].tolist() == META['palette'][0]
    assert image[50, 170].tolist() == META['palette'][1]
    assert (image[44 + 32 + 6 + 60, 6:14] == [0, 0, 255]).all()  # the tall one, below


def test_a_test_run_saves_an_image_an_image(runner, tmp_path):
    hook = PredictionPictureHook(test_dir=str(tmp_path / 'show'), tile=32)
    hook.after_test_iter(runner, 0, batch((8, 8), (8, 8)), [sample(8, 8, 'a/x.jpg'), sample(8, 8)])
    views = dict(inputs=[batch((8, 8))['inputs'], batch((12, 12))['inputs']])  # of test-time augmentation
    hook.after_test_iter(runner, 1, views, [sample(8, 8, 'y.png')])
    assert sorted(p.name for p in (tmp_path / 'show').glob('*.png')) == [
        '00000_x.png',
        '00001_image.png',
        '00002_y.png',
    ]


def test_models_of_other_tasks_get_no_image(runner, tmp_path):
    hook = PredictionPictureHook()
    hook.before_val_epoch(runner)
    hook.after_val_iter(runner, 0, batch((8, 8)), [SegDataSample()])
    hook.after_val_epoch(runner, {})
    assert not list(tmp_path.iterdir())


def test_ignored_pixels_are_black():
    assert colour(np.array([[0, 255]]), META['palette']).tolist() == [[[255, 0, 0], [0, 0, 0]]]
