"""MaskCLIP from the command line: no training, no checkpoint."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def program():
    spec = importlib.util.spec_from_file_location('tools_test', ROOT / 'tools' / 'test.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(('arch', 'least'), [('tiny-vit', 30), ('tiny-rn', 15)])
def test_without_checkpoint_it_reports_itself_its_refinements_and_the_control(program, tmp_path, arch, least):
    metrics = program.main(
        [
            str(ROOT / 'configs' / 'maskclip' / f'maskclip_{arch}_shapes.py'),
            *('--work-dir', str(tmp_path)),
            *('--cfg-options', 'test_dataloader.dataset.num_scenes=12'),
        ]
    )
    assert metrics['mIoU'] > max(least, 2 * metrics['random_text/mIoU'])
    assert {'denoised/mIoU', 'smoothed/mIoU', 'denoised_smoothed/mIoU'} <= set(metrics)


def test_a_model_with_trained_parts_needs_a_checkpoint(program, tmp_path, capsys):
    with pytest.raises(SystemExit):
        program.main([str(ROOT / 'configs' / 'clip_fpn_shapes.py'), '--work-dir', str(tmp_path)])
    assert 'name a checkpoint to test as second argument' in capsys.readouterr().err
