"""Files are whole or not there, a lock ends with its process, and a work dir knows its own checkpoints."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap

import pytest
import torch

from vlm_dense.engine.files import atomic_write, last_checkpoint, local_path, locked_work_dir
from vlm_dense.errors import ConfigError


def save(path, value: float = 1.0):
    torch.save(dict(state_dict=dict(a=torch.full((100,), value))), path)
    return path


def test_a_file_that_could_not_be_written_to_the_end_leaves_the_old_one(tmp_path):
    path = tmp_path / 'a.txt'
    path.write_text('old')
    with pytest.raises(OSError, match='full'), atomic_write(path) as begun:
        begun.write_text('ne')
        assert path.read_text() == 'old'
        raise OSError('the disk is full')
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]
    with atomic_write(path) as begun:
        begun.write_text('new')
    assert path.read_text() == 'new' and list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_another(tmp_path):
    for content in ('1', '2'):
        with atomic_write(tmp_path / 'shards') as begun:
            begun.mkdir()
            (begun / 'rank0.pth').write_text(content)
    assert (tmp_path / 'shards' / 'rank0.pth').read_text() == '2'
    assert [p.name for p in tmp_path.iterdir()] == ['shards']


HOLD = """
    import os, signal, sys, time
    from vlm_dense.engine.files import locked_work_dir
    with locked_work_dir(sys.argv[1]):
        if os.fork() == 0:  # as a data worker, which outlives its parent for a while
            print('held', flush=True)
            time.sleep(60)
            os._exit(0)
        time.sleep(60)
"""


def test_the_second_training_in_a_work_dir_is_refused_until_the_first_is_gone(tmp_path):
    command = [sys.executable, '-c', textwrap.dedent(HOLD), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as first:
        assert 'held\n' in iter(first.stdout.readline, '')
        with pytest.raises(ConfigError, match=f'Another training runs in {tmp_path}'), locked_work_dir(str(tmp_path)):
            pass
        first.kill()
        first.wait()
        first.stdout.close()
        again = pytest.raises(ConfigError, match='Another training')
        with locked_work_dir(str(tmp_path)), again, locked_work_dir(str(tmp_path)):
            pass
        with locked_work_dir(str(tmp_path)):
            pass


def test_a_work_dir_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    refused = pytest.raises(ConfigError, match=r'work dir .*file/work cannot be written')
    with refused, locked_work_dir(str(tmp_path / 'file' / 'work')):
        pass


def test_a_copied_work_dir_knows_its_own_checkpoints(tmp_path):
    first = tmp_path / 'first'
    first.mkdir()
    save(first / 'iter_2.pth')
    (first / 'last_checkpoint').write_text(str(save(first / 'iter_4.pth')))
    assert last_checkpoint(str(first)) == str(first / 'iter_4.pth')
    copy = tmp_path / 'copy'
    shutil.copytree(first, copy)
    assert last_checkpoint(str(copy)) == str(copy / 'iter_4.pth')
    assert local_path(copy, str(first / 'best_mIoU.pth')) == str(copy / 'best_mIoU.pth')
    (copy / 'iter_4.pth').unlink()  # not that of the first one
    assert last_checkpoint(str(copy)) == str(copy / 'iter_2.pth')
    shutil.rmtree(first)
    assert last_checkpoint(str(copy)) == str(copy / 'iter_2.pth')


def test_checkpoints_in_another_folder_are_found_where_they_are(tmp_path):
    (tmp_path / 'work').mkdir()
    (tmp_path / 'elsewhere').mkdir()
    path = save(tmp_path / 'elsewhere' / 'iter_4.pth')
    (tmp_path / 'work' / 'last_checkpoint').write_text(str(path))
    assert last_checkpoint(str(tmp_path / 'work')) == str(path)


@pytest.mark.parametrize('named', [None, '', 'iter_12.pth', 'gone.pth'])
def test_the_last_whole_checkpoint_is_found_where_none_or_a_cut_one_is_named(tmp_path, named):
    for step in (2, 9, 10):
        save(tmp_path / f'iter_{step}.pth')
    save(tmp_path / 'best_mIoU_iter_20.pth')
    for name, size in (('iter_12.pth', 300), ('iter_11.pth', 0)):
        (tmp_path / name).write_bytes((tmp_path / 'iter_2.pth').read_bytes()[:size])
    if named is not None:
        (tmp_path / 'last_checkpoint').write_text(named and str(tmp_path / named))
    assert last_checkpoint(str(tmp_path)) == str(tmp_path / 'iter_10.pth')


def test_an_empty_or_absent_work_dir_has_no_checkpoint(tmp_path):
    assert last_checkpoint(str(tmp_path)) is None and last_checkpoint(str(tmp_path / 'absent')) is None
