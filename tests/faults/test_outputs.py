"""Nothing is lost: no output replaces an input, or a file that this program did not write."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from engine.toy import write_config, write_data
from faults.hostile import PHOTO, write
from faults.test_bad_inputs import refused
from PIL import Image

from vlm_dense.cli import check_data, describe_classes, pseudo_label, segment, train
from vlm_dense.cli import test as test_tool
from vlm_dense.engine.outputs import WRITTEN, check_work_dir, claim
from vlm_dense.errors import ConfigError, DataError


def content(folder):
    return {path: path.read_bytes() for path in folder.rglob('*') if path.is_file() and path.name != WRITTEN}


def test_a_file_of_somebody_else_is_not_replaced_and_an_own_one_is(tmp_path):
    own, foreign = tmp_path / 'own.txt', tmp_path / 'foreign.txt'
    foreign.write_text('mine')
    claim([own])
    own.write_text('written')
    claim([own])
    with pytest.raises(DataError, match='did not write'):
        claim([tmp_path / 'new.txt', foreign])
    assert 'new.txt' not in (tmp_path / WRITTEN).read_text().split()


def test_an_input_is_not_replaced_under_any_name(tmp_path):
    read = tmp_path / 'a.txt'
    claim([read])  # even one that vlm_dense wrote
    read.write_text('x')
    os.link(read, tmp_path / 'b.txt')
    (tmp_path / 'c.txt').symlink_to(read)
    for name in ('a.txt', 'b.txt', 'c.txt', './a.txt'):
        with pytest.raises(DataError, match='made from|did not write'):
            claim([tmp_path / name], [read, 7, None])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp('outputs')
    data = write_data(folder / 'data', train=4, val=2)
    config = write_config(folder, data, "train_cfg['max_iters'] = 1")
    train.main([config, '--work-dir', str(folder / 'work')])
    return config, data, folder / 'work'


def test_a_test_does_not_replace_the_masks_that_it_measures_against(run, tmp_path, capsys):
    config, data, work_dir = run
    own = tmp_path / 'data'
    shutil.copytree(data, own)
    before = content(own)
    masks = own / 'masks' / 'val'
    words = [config, work_dir / 'iter_1.pth', '--data-root', own, '--work-dir', tmp_path / 'work', '--out']
    refused(capsys, 'would replace', test_tool.main, *words, masks)
    assert content(own) == before
    for _ in range(2):  # its own are replaced
        test_tool.main([str(word) for word in [*words, tmp_path / 'out']])
    assert len(list((tmp_path / 'out').glob('*.png'))) == 2


def test_a_new_run_does_not_replace_the_checkpoints_of_another(run, tmp_path, capsys):
    config, _, work_dir = run
    own = tmp_path / 'work'
    shutil.copytree(work_dir, own)
    before = (own / 'iter_1.pth').read_bytes()
    refused(capsys, 'holds checkpoints of another run', train.main, config, '--work-dir', own)
    inside = ['--load-from', own / 'iter_1.pth']
    refused(capsys, 'another folder', train.main, config, '--work-dir', own, *inside)
    refused(capsys, 'another folder', train.main, config, '--work-dir', own, *inside, '--overwrite')
    assert (own / 'iter_1.pth').read_bytes() == before
    train.main([config, '--work-dir', str(own), '--overwrite', '--cfg-options', 'randomness.seed=5'])
    assert (own / 'iter_1.pth').read_bytes() != before


def test_a_run_that_goes_on_elsewhere_needs_an_empty_place(tmp_path):
    write(tmp_path / 'a' / 'iter_1.pth', 'x')
    check_work_dir(str(tmp_path / 'a'), str(tmp_path / 'a' / 'iter_1.pth'), resumed=True, overwrite=False)
    check_work_dir(str(tmp_path / 'b'), str(tmp_path / 'a' / 'iter_1.pth'), resumed=True, overwrite=False)
    write(tmp_path / 'b' / 'best_x.pth', 'x')
    with pytest.raises(ConfigError, match='--overwrite'):
        check_work_dir(str(tmp_path / 'b'), str(tmp_path / 'a' / 'iter_1.pth'), resumed=True, overwrite=False)


def test_a_checkpoint_that_a_kill_cut_short_is_none_of_another_run(tmp_path):
    write(tmp_path / '.iter_1.partial.pth', 'cut short')
    check_work_dir(str(tmp_path), None, resumed=False, overwrite=False)


def test_a_config_inside_its_work_dir_stays_as_it_is(run, tmp_path):
    _, data, _ = run
    config = write_config(tmp_path, data, "train_cfg['max_iters'] = 1\nmine = 1  # my note")
    before = Path(config).read_text()
    train.main([config, '--work-dir', str(tmp_path)])
    assert Path(config).read_text() == before and list(tmp_path.glob('dump_*.py'))


def test_answers_and_names_are_not_replaced_by_what_is_made_of_them(tmp_path, capsys):
    line = json.dumps({'class': 'owl', 'question': 'What?', 'answer': 'It has feathers.'})
    answers, names = write(tmp_path / 'a.jsonl', line + '\n'), write(tmp_path / 'names.txt', 'owl\n')
    before = content(tmp_path)
    main = describe_classes.main
    refused(capsys, 'would replace', main, names, '--answers', answers, '--out', answers)
    refused(capsys, 'would replace', main, names, '--answers', answers, '--out', names)
    refused(capsys, 'would replace', main, names, '--questions', names)
    refused(capsys, 'would replace', main, names, '--answers', answers, '--out', tmp_path / 'o', '--questions', answers)
    assert content(tmp_path) == before
    for _ in range(2):
        assert main([str(names), '--answers', str(answers), '--out', str(tmp_path / 'out.json')]) == 0


def test_pseudo_labels_replace_nobodys_list_and_nobodys_mask(tmp_path, capsys):
    write(tmp_path / 'in' / 'a.png', PHOTO)
    words = ['maskclip_tiny-vit_shapes', 'none', tmp_path / 'in']
    for name, text in (('labelled.txt', 'my list'), ('a.png', 'no image, but mine')):
        own = write(tmp_path / name / name, text)
        refused(capsys, 'no results of this program', pseudo_label.main, *words, own.parent)
        assert own.read_text() == text


def test_images_that_lie_where_results_go_stay(run, tmp_path, capsys):
    config, data, _ = run
    root = tmp_path / 'data'
    shutil.copytree(data, root)
    mine = write(root / 'train.png', PHOTO)
    words = ['--data-root', root, '--out', root]
    refused(capsys, 'would replace', check_data.main, config, *words)
    image = write(tmp_path / 'a.png', PHOTO)
    other = write(tmp_path / 'out' / 'vis' / 'a.png', PHOTO + b'mine')
    refused(capsys, 'would replace', segment.main, image, '--classes', 'circle', 'star', '--out', tmp_path / 'out')
    assert mine.read_bytes() == PHOTO and other.read_bytes() == PHOTO + b'mine'
    assert np.array_equal(np.asarray(Image.open(image)), np.asarray(Image.open(mine)))
