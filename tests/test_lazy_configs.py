"""Pure Python configs, with read_base() and imported classes, train and test through our programs, one of each task."""

from __future__ import annotations

import pytest
from classification.small_runs import ROOT, test_tool, train_tool

SMALL = [
    'train_cfg.max_iters=2',
    'train_cfg.val_interval=2',
    'train_dataloader.batch_size=2',
    'val_dataloader.dataset.num_scenes=4',
    'test_dataloader.dataset.num_scenes=4',
    'default_hooks.checkpoint.interval=2',
]


@pytest.mark.parametrize(('name', 'metric'), [('denseclip', 'mIoU'), ('retinanet', 'coco/bbox_mAP'), ('coop', 'top1')])
def test_a_pure_python_config_trains_and_tests(name, metric, tmp_path):
    config = str(ROOT / f'configs/_lazy_/lazy_{name}_shapes.py')
    options = ['--work-dir', str(tmp_path), '--cfg-options', *SMALL]
    train_tool.main([config, *options])
    found = test_tool.main([config, str(tmp_path / 'iter_2.pth'), *options])
    assert metric in found


def test_a_misspelt_key_of_a_pure_python_config_is_refused(tmp_path, capsys):
    config = (ROOT / 'configs/_lazy_/lazy_coop_shapes.py').read_text()
    config = config.replace('from ._base_.runtime', 'from .runtime').replace('model = dict(', 'modle = dict(')
    (tmp_path / 'config.py').write_text(config)
    (tmp_path / 'runtime.py').write_text((ROOT / 'configs/_lazy_/_base_/runtime.py').read_text())
    with pytest.raises(SystemExit):
        train_tool.main([str(tmp_path / 'config.py'), '--work-dir', str(tmp_path / 'run')])
    assert "nothing reads 'modle'. Did you mean 'model'?" in capsys.readouterr().err
