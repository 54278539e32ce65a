"""The embedded default of detection: it trains, validates, draws, and is tested on a part of the scenes."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine.toy import scalars
from PIL import Image

from vlm_dense.cli import model_info
from vlm_dense.cli import test as test_tool
from vlm_dense.cli import train as train_tool
from vlm_dense.engine.checkpoints.fit import read_checkpoint
from vlm_dense.engine.configs.names import find_config

ROOT = Path(__file__).parents[2]


SMALL = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.logger.interval=1']
SMALL += ['train_dataloader.batch_size=2', 'val_dataloader.dataset.indices=4', 'test_dataloader.dataset.indices=3']


@pytest.mark.parametrize('name', ['denseclip_mask-rcnn', 'clip_mask-rcnn', 'denseclip_retinanet', 'clip_retinanet'])
def test_it_trains_and_tests_on_a_part_of_the_scenes(name, tmp_path):
    config, work = str(find_config(ROOT / 'configs' / f'{name}_shapes.py')), tmp_path / 'work'
    options = ['--cfg-options', *SMALL, f'visualizer.name={name}']
    train_tool.main([config, '--work-dir', str(work), *options])
    rows = scalars(work)
    text_loss = {'denseclip_mask-rcnn': 'loss_aux_seg', 'denseclip_retinanet': 'loss_seg'}.get(name)
    assert all(('loss_aux_seg' in r or 'loss_seg' in r) == (text_loss is not None) for r in rows if 'loss' in r)
    assert ('coco/segm_mAP' in rows[-1]) == ('mask' in name) and 'coco/bbox_mAP' in rows[-1]
    if name != 'denseclip_mask-rcnn':
        return
    with Image.open(work / 'vis' / 'iter_2.png') as image:
        assert image.width > 3 * 256 and image.height > 3 * 256
    show = tmp_path / 'show'
    checkpoint = str(work / 'iter_2.pth')
    options = ['--cfg-options', *SMALL, 'visualizer.name=tested']
    metrics = test_tool.main([config, checkpoint, '--work-dir', str(work), '--show-dir', str(show), *options])
    assert 0 <= metrics['coco/bbox_mAP'] <= 1 and len(list(show.glob('*.png'))) == 3


@pytest.mark.parametrize('name', ['denseclip_mask-rcnn_shapes', 'denseclip_retinanet_shapes'])
def test_parameters_and_operations_of_detectors_are_counted(name, capsys):
    model_info.main([str(find_config(ROOT / 'configs' / f'{name}.py')), '--shape', '96', '96'])
    out = capsys.readouterr().out
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line}
    assert rows['text_encoder'][1] == '0' and float(out.splitlines()[-1].split()[0]) > 0.1


@pytest.mark.long
@pytest.mark.parametrize('name', ['f_vlm', 'f_vit', 'f_vlm_retinanet'])
def test_open_vocabulary_detectors_are_validated_on_shapes_that_training_does_not_show(name, tmp_path):
    config, work = str(find_config(ROOT / 'configs' / f'{name}_shapes.py')), tmp_path / 'work'
    train_tool.main([config, '--work-dir', str(work), '--cfg-options', *SMALL, f'visualizer.name={name}'])
    assert {'coco/novel_ap50', 'coco/base_ap50', 'coco/bbox_mAP_50'} <= set(scalars(work)[-1])
    meta = read_checkpoint(str(work / 'iter_2.pth'), map_location='cpu')['meta']['dataset_meta']
    assert len(meta['classes']) == len(meta['base_classes']) == 6
