"""MaskCLIP and its successors by one program: shared towers and text change nothing, a stopped run goes on."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.processes import wait_until
from mmengine.config import Config
from PIL import Image

from vlm_dense.cli import compare_dense
from vlm_dense.clip.vit import CLIPViT
from vlm_dense.comparison import dense, dense_report
from vlm_dense.comparison.shared_tower import SharedTower
from vlm_dense.errors import ConfigError
from vlm_dense.registry import MODELS

ROOT = Path(__file__).parents[2]
IN_A_PROCESS = compare_dense._measure

OWN = """
from vlm_dense.contract import ValueAttention
from vlm_dense.registry import MODELS

@MODELS.register_module()
class AttentionOfAReader(ValueAttention):
    factor = 1
"""

METHODS = ['maskclip', 'maskclip-windows', 'sclip', 'clearclip', 'naclip', 'sc_clip', 'resclip', 'proxyclip', 'lposs']


def planned(out: Path, *methods: str, images: int = 2, datasets=('shapes',), options=None) -> list[dense.Cell]:
    counts = dict.fromkeys(datasets, images)
    return dense.plan(ROOT / 'configs', methods, datasets, 'tiny-vit', counts, {}, options or {}, out)


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch):
    def measure(cell, out, images):
        dense.run_cost(cell, out, images)
        return {}

    monkeypatch.setattr(compare_dense, '_measure', measure)


@pytest.fixture(scope='module')
def compared(tmp_path_factory):
    out = tmp_path_factory.mktemp('compare_dense')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compare_dense, '_measure', lambda cell, out, images: dense.run_cost(cell, out, images) or {})
        arguments = ['--images', 'shapes=2', '--timed', '1', '--drawn', '1', '--out', str(out)]
        return out, compare_dense.main([*arguments, '--methods', *METHODS])


def test_each_method_has_its_row_and_its_column_in_the_image(compared):
    out, status = compared
    assert status == 0
    with (out / 'results.csv').open(encoding='utf-8') as file:
        rows = {row['method']: row for row in csv.DictReader(file)}
    assert list(rows) == METHODS
    assert all(0 < float(row['mIoU']) < 100 and float(row['seconds']) > 0 for row in rows.values())
    text = (out / 'results.md').read_text(encoding='utf-8')
    assert all(f'| {method} | {float(row["mIoU"]):.1f} | ' in text for method, row in rows.items())
    with Image.open(out / 'shapes.png') as image:
        assert image.width > 6 * 128 and image.height > 2 * 128  # eleven columns, six side by side


def test_names_are_encoded_once_for_all_with_the_same_text(compared):
    out, _ = compared
    assert len(list((out / 'text').glob('*.pth'))) == 2  # MaskCLIP's 85 sentences, and one of all others


@torch.no_grad()
@pytest.mark.parametrize('method', METHODS)
def test_scores_are_those_of_the_model_alone(compared, method, tmp_path):
    out, _ = compared
    [cell] = planned(out, method)
    model = dense.build(cell)  # with its own text and tower
    dataset = dense.DATASETS.build(cell.cfg.test_dataloader.dataset)
    with np.load(cell.file(out, 'pictures').with_suffix('.npz')) as kept:  # codespell:ignore pictures
        sample = model.test_step(dense.pseudo_collate([dataset[dense.spread(cell.images, len(dataset))[0]]]))[0]
        assert np.array_equal(sample.pred_sem_seg.data[0].numpy(), kept[f'{method}_0'])


def test_finished_cells_are_not_run_again(compared, monkeypatch):
    out, _ = compared
    monkeypatch.setattr(dense, 'run_group', lambda *args: pytest.fail('run again'))
    before = (out / 'results.csv').read_text()
    assert compare_dense.main(['--images', 'shapes=2', '--out', str(out), '--drawn', '1', '--methods', *METHODS]) == 0
    assert (out / 'results.csv').read_text() == before


def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, '_SAVE_EVERY', 2)
    whole, stopped = (planned(tmp_path / name, 'naclip', 'sclip', images=5) for name in ('whole', 'stopped'))
    dense.run_group(whole, tmp_path / 'whole', 1)

    def stop(done, every):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dense.run_group(stopped, tmp_path / 'stopped', 1, stop)
    seen = []
    again = planned(tmp_path / 'stopped', 'naclip', 'sclip', images=5)
    dense.run_group(again, tmp_path / 'stopped', 1, lambda done, every: seen.append(done))
    assert seen == [3, 4, 5]
    for a, b in zip(whole, again, strict=True):
        assert dense.result_at(a.file(tmp_path / 'whole', 'results')) == dense.result_at(
            b.file(tmp_path / 'stopped', 'results')
        )


def test_a_run_that_is_killed_before_its_images_are_kept_is_made_again(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    [cell] = planned(tmp_path, 'naclip', images=1)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(dense.np, 'savez_compressed', stop)
        dense.run_group([cell], tmp_path, 1)
    assert dense.result_at(cell.file(tmp_path, 'results')) is None
    dense.run_group([cell], tmp_path, 1)
    assert dense.result_at(cell.file(tmp_path, 'results'))
    assert cell.file(tmp_path, 'pictures').with_suffix('.npz').is_file()  # codespell:ignore pictures


def test_a_method_in_a_file_that_the_config_imports_is_measured_and_its_code_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    code = tmp_path / 'attention_of_a_reader.py'
    code.write_text(OWN)
    (tmp_path / 'own_tiny-vit_shapes.py').write_text(
        f"_base_ = '{ROOT}/configs/maskclip/maskclip-windows_tiny-vit_shapes.py'\n"
        f"custom_imports = dict(imports=['{code.stem}'])\n"
        "model = dict(backbone=dict(dense_attention=dict(_delete_=True, type='vlm_dense.AttentionOfAReader')))\n"
    )

    def cell() -> dense.Cell:
        return dense.plan(tmp_path, ['own'], ['shapes'], 'tiny-vit', dict(shapes=1), {}, {}, tmp_path / 'out')[0]

    try:
        first = cell()
        assert IN_A_PROCESS(first, tmp_path / 'out', 1) == {}
        assert dense.result_at(first.file(tmp_path / 'out', 'cost'))
        code.write_text(OWN.replace('factor = 1', 'factor = 2'))
        assert cell().key != first.key
    finally:
        MODELS.module_dict.pop('AttentionOfAReader', None)
        sys.modules.pop(code.stem, None)


def test_a_terminated_comparison_leaves_no_measurement_running(tmp_path):
    (tmp_path / 'slow.py').write_text(
        'import pathlib, time\n'
        'def run_cost(*_):\n'
        '    pathlib.Path(__file__).with_name("began").touch()\n'
        '    time.sleep(600)\n'
    )
    arguments = ['--methods', 'maskclip', '--images', 'shapes=1', '--out', str(tmp_path / 'out')]
    code = f'import sys; sys.path[:0] = {[str(tmp_path)]!r}\n'
    code += 'from vlm_dense.cli import compare_dense; from vlm_dense.comparison import dense\n'
    code += 'import slow; dense.run_cost = slow.run_cost\n'
    code += f'compare_dense.main({arguments!r})'
    process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.DEVNULL, start_new_session=True)
    wait_until((tmp_path / 'began').exists, process)
    process.terminate()
    assert process.wait(60) == 2
    end = time.time() + 10
    with pytest.raises(ProcessLookupError):
        while time.time() < end:
            os.killpg(process.pid, 0)
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)


def test_a_method_that_fails_stops_no_other(tmp_path, monkeypatch):
    cells = planned(tmp_path, 'naclip', 'sclip')
    step = dense.MaskCLIP.test_step

    def fail(model, data):
        if type(model.backbone.dense_attention).__name__ == 'NACLIPAttention':
            raise ConfigError('no luck')
        return step(model, data)

    monkeypatch.setattr(dense.MaskCLIP, 'test_step', fail)
    failed = dense.run_group(cells, tmp_path, 1)
    assert [cell.method for cell in failed] == ['naclip'] and 'no luck' in failed[cells[0]]
    assert dense.result_at(cells[1].file(tmp_path, 'results'))['mIoU'] > 0
    assert '- failed: naclip, shapes: ConfigError: no luck' in dense_report.markdown([], failed, 'command')


@torch.no_grad()
def test_a_shared_tower_runs_common_blocks_once():
    clip = dict(type='vlm_dense.CLIPViT', arch='tiny-vit', pretrained='bundled', head=True)
    parts = [dict(type=f'vlm_dense.{name}Attention') for name in ('NACLIP', 'SCLIP', 'ClearCLIP')]
    towers = [MODELS.build(dict(clip, dense_attention=part)) for part in parts]
    shared = SharedTower(towers[0])
    views = [shared.view(tower.dense_attention) for tower in towers]
    images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    for tower, view in zip(towers, views, strict=True):
        assert isinstance(view, CLIPViT)
        assert torch.equal(tower.encode(images, ('value',)).value, view.encode(images, ('value',)).value)
    assert shared.runs == len(towers[0].transformer.resblocks) - 1
    other = images + 1
    assert torch.equal(towers[1].encode(other, ('value',)).value, views[1].encode(other, ('value',)).value)
    shared.forget()
    views[0].encode(images, ('value',))
    assert shared.runs == 3 * (len(towers[0].transformer.resblocks) - 1)


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--methods', 'naclib'], 'there are: naclip'),
        (['--datasets', 'shapes', '--data-root', 'camvid=/nowhere'], 'SET=VALUE'),
        (['--images', 'shapes=0'], 'at least 1'),
        (['--datasets', 'camvid', '--data-root', 'camvid=/nowhere'], '/nowhere'),
    ],
)
def test_what_cannot_be_done_is_a_message(arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        compare_dense.main([*arguments, '--out', str(tmp_path)])
    assert left.value.code == 2 and words in capsys.readouterr().err


def test_every_benchmark_has_a_config_of_each_method_and_tower():
    sets = ['voc21', 'voc20', 'context60', 'context59', 'coco-object', 'coco-stuff', 'cityscapes', 'ade20k']
    for method in METHODS:
        folder = ROOT / 'configs' / method.removesuffix('-windows')
        for tower, arch in (('vit-b16', 'ViT-B-16'), ('vit-l14', 'ViT-L-14')):
            for dataset in sets:
                cfg = Config.fromfile(folder / f'{method}_{tower}_{dataset}.py')
                assert cfg.model.backbone.arch == cfg.model.text_encoder.arch == arch
