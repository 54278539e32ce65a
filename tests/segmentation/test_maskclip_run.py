"""MaskCLIP from the command line: no training, no checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlm_dense.cli import test as test_tool

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(('arch', 'least'), [('tiny-vit', 30), ('tiny-rn', 15)])
def test_without_checkpoint_it_reports_itself_its_refinements_and_the_control(tmp_path, arch, least):
    metrics = test_tool.main(
        [
            str(ROOT / 'configs' / 'maskclip' / f'maskclip_{arch}_shapes.py'),
            *('--work-dir', str(tmp_path)),
            *('--cfg-options', 'test_dataloader.dataset.num_scenes=12'),
        ]
    )
    assert metrics['mIoU'] > max(least, 2 * metrics['random_text/mIoU'])
    assert {'denoised/mIoU', 'smoothed/mIoU', 'denoised_smoothed/mIoU'} <= set(metrics)


def test_a_model_with_trained_parts_needs_a_checkpoint(tmp_path, capsys):
    with pytest.raises(SystemExit):
        test_tool.main([str(ROOT / 'configs' / 'clip_fpn_shapes.py'), '--work-dir', str(tmp_path)])
    assert 'name a checkpoint to test as second argument' in capsys.readouterr().err
