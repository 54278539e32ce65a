"""The commands of docs/own_data.md, read from the page: all are commands, and each walk through them works."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import own_data
import pytest
from PIL import Image

from vlm_dense import cli

PAGE = (Path(__file__).parents[2] / 'docs' / 'own_data.md').read_text(encoding='utf-8')
DRAW = dict(masks=own_data.draw_masks, boxes=own_data.draw_boxes, folders=own_data.draw_folders)


def commands(folder: str) -> list[list[str]]:
    """The commands below the line about a folder."""
    (block,) = re.findall(rf'in a folder `{folder}`:\n\n```bash\n(.*?)```', PAGE, re.S)
    return [shlex.split(line) for line in block.strip().splitlines()]


@pytest.mark.parametrize('folder', DRAW)
def test_each_walk_goes_from_the_check_of_data_to_onnx(folder):
    found = commands(folder)
    use = dict(masks='segment', boxes='detect', folders='classify')[folder]
    assert [name for _, name, *_ in found] == ['check-data', 'train', 'test', use, 'export', use]
    for program, name, *words in found:
        args = cli.program(name).parser().parse_args(words)
        assert program == 'vlm-dense' and args.data_root == folder if name in ('train', 'test') else args


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize('folder', DRAW)
def test_a_walk_needs_the_data_until_the_test_and_no_longer(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    DRAW[folder](tmp_path / folder)
    shutil.copy(next((tmp_path / folder).rglob('0.png')), 'photo.jpg')
    for _, name, *words in commands(folder):
        with pytest.raises(SystemExit) as left:
            cli.main([name, *words])
        assert left.value.code == 0, words
        if name == 'test':
            shutil.rmtree(folder)
    if folder == 'masks':
        found = [np.asarray(Image.open(f'work_dirs/segment{end}/pred/photo.png')) for end in ('', '_onnx')]
        assert found[0].shape == (64, 64) and (found[0] == found[1]).mean() > 0.99
    elif folder == 'boxes':
        found = [json.loads(Path(f'work_dirs/detect{end}/preds/photo.json').read_text()) for end in ('', '_onnx')]
        np.testing.assert_allclose(found[0]['scores'][:5], found[1]['scores'][:5], atol=1e-3)
    else:
        found = [Path(f'work_dirs/classify{end}/predictions.csv').read_text() for end in ('', '_onnx')]
        assert found[0] == found[1] and 'photo.jpg,' in found[0]
