"""Checks before a training begins: classes, the checkpoint to resume from, how checkpoints are saved."""

from __future__ import annotations

import errno
import io
import sys

import pytest
import torch
from engine.toy import write_config, write_data
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from vlm_dense.engine.files import locked_work_dir
from vlm_dense.engine.messages import user_errors
from vlm_dense.engine.runner import launch
from vlm_dense.errors import ClassNamesError, DataError


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp('data'))


def config(folder, data, more: str = '') -> Config:
    init_default_scope('mmseg')
    return launch.load_config(write_config(folder, data, more))


ORDER = "{loader} = dict({loader}, dataset=dict({loader}['dataset'], metainfo=dict(classes={names})))"


@pytest.mark.parametrize(
    ('loader', 'names', 'message'),
    [
        ('val_dataloader', "('road', 'sky', 'car')", "the same names in another order, first label 0: 'sky' -> 'road'"),
        ('val_dataloader', "('sky', 'road')", r'3 -> 2 names; 1 of the checkpoint only \(car\)'),
        ('test_dataloader', "('road', 'sky', 'car')", 'the same names in another order'),
        ('test_dataloader', "('cat', 'dog', 'cow')", None),
    ],
)
def test_the_classes_of_the_data_sets_are_compared(tmp_path, data, loader, names, message):
    cfg = config(tmp_path, data, ORDER.format(loader=loader, names=names))
    if message is None:
        return launch.check_same_classes(cfg)
    with pytest.raises(ClassNamesError, match=message) as caught:
        launch.check_same_classes(cfg)
    assert loader in str(caught.value)


class Named(nn.Module):
    def __init__(self, class_names=None):
        super().__init__()


MODELS.register_module('LaunchTestNamed', module=Named)


def test_names_of_the_model_in_another_order_than_the_data_are_refused(tmp_path, data):
    cfg = config(tmp_path, data, 'model = dict(_delete_=True, type="LaunchTestNamed")')
    cfg.model = dict(type='LaunchTestNamed', class_names=['road', 'sky', 'car'])
    with pytest.raises(ClassNamesError, match="another order, first label 0: 'road' -> 'sky'"):
        launch.fill_class_names(cfg)
    cfg.model.class_names = ['a road', 'the sky', 'a car']  # other words for them are the user's choice
    launch.fill_class_names(cfg)
    cfg.model = dict(type='LaunchTestNamed')
    launch.fill_class_names(cfg)
    assert cfg.model.class_names == ['sky', 'road', 'car']


def test_a_training_goes_on_where_it_is_told_to(tmp_path):
    torch.save(dict(state_dict={}), tmp_path / 'iter_3.pth')
    latest = str(tmp_path / 'iter_3.pth')
    for asked, given, expected in (
        ('auto', {}, (True, latest)),
        ('auto', dict(load_from='start.pth'), (True, latest)),
        ('other.pth', {}, (True, 'other.pth')),
        (None, dict(resume=True), (True, latest)),
        (None, dict(resume=True, load_from='mine.pth'), (True, 'mine.pth')),
        (None, dict(load_from='start.pth'), (False, 'start.pth')),
    ):
        cfg = Config(dict(work_dir=str(tmp_path), resume=False, load_from=None) | given)
        launch._resume(cfg, asked)
        assert (cfg.resume, cfg.load_from) == expected
    (tmp_path / 'iter_3.pth').unlink()
    cfg = Config(dict(work_dir=str(tmp_path), load_from='start.pth'))
    launch._resume(cfg, 'auto')
    assert (cfg.resume, cfg.load_from) == (False, 'start.pth')


@pytest.mark.parametrize(
    ('hooks', 'expected'),
    [
        (None, dict(type='vlm_dense.SafeCheckpointHook')),
        (
            dict(checkpoint=dict(type='CheckpointHook', interval=3)),
            dict(type='vlm_dense.SafeCheckpointHook', interval=3),
        ),
        (dict(checkpoint=None), None),
        (dict(checkpoint=dict(type='mine.Hook')), dict(type='mine.Hook')),
    ],
)
def test_our_hook_saves_in_the_place_of_mmengines(monkeypatch, hooks, expected):
    monkeypatch.setattr(launch.SafeRunner, 'from_cfg', classmethod(lambda cls, cfg: cfg))
    assert launch.build_runner(Config(dict(default_hooks=hooks))).default_hooks['checkpoint'] == expected


def test_a_second_training_in_the_work_dir_is_told_so(tmp_path, data, capsys):
    path, work_dir = write_config(tmp_path, data), str(tmp_path / 'work')
    given = dict(launcher='none', local_rank=None, data_root=None, cfg_options=None, amp=False, load_from=None)
    arguments = launch.argparse.Namespace(config=path, work_dir=work_dir, resume=None, **given)
    with locked_work_dir(work_dir), pytest.raises(SystemExit) as left:
        launch.train(arguments)
    assert left.value.code == 2 and f'Another training runs in {work_dir}' in capsys.readouterr().err


def test_a_message_that_cannot_be_written_keeps_its_status(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(sys, 'stderr', Full())
    with pytest.raises(SystemExit) as left, user_errors():
        raise DataError('told to nobody')
    assert left.value.code == 2


def test_weights_that_cannot_be_downloaded_are_named_with_the_place_for_them(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    with pytest.raises(SystemExit) as left, user_errors():
        torch.hub.load_state_dict_from_url('http://127.0.0.1:9/resnet50_v1c.pth', progress=False)
    message = capsys.readouterr().err
    assert left.value.code == 2 and 'Traceback' not in message
    assert 'WeightsNotFoundError: http://127.0.0.1:9/resnet50_v1c.pth cannot be downloaded' in message
    assert str(tmp_path / 'hub' / 'checkpoints' / 'resnet50_v1c.pth') in message


@pytest.mark.parametrize(
    ('metrics', 'nothing'),
    [
        (dict(mIoU=[10.0, 10.0], aAcc=[50.0, 50.0]), True),  # every validation found the same
        (dict(mIoU=[10.0, 10.0], aAcc=[50.0, 50.1]), False),
        (dict(mIoU=[10.0]), False),  # a single one tells nothing
        (dict(bbox_mAP=[0.0]), True),  # but zeros do
        (dict(bbox_mAP=[0.0, float('nan')]), True),
        (dict(top1=[100.0, 100.0]), False),  # perfect from the beginning
        (dict(bbox_mAP=[1.0, 1.0]), False),
        ({}, False),
    ],
)
def test_a_training_that_learned_nothing_is_known_by_its_validations(metrics, nothing):
    assert launch.nothing_learned(metrics) is nothing
