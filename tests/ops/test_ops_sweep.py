"""The sweep over stock configs: what it leaves out of a config, how it runs one, and how it counts."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import pytest
import torch
from stock import all_configs, one_model, outcomes

TOOLS = Path(__file__).parents[2] / 'tools' / 'dev'


def test_nothing_is_left_to_download_and_every_score_counts():
    model = dict(
        backbone=dict(type='A', init_cfg=dict(type='Pretrained', checkpoint='x'), pretrained='y'),
        neck=dict(init_cfg=dict(checkpoint='https://where.org/weights.pth')),
        head=[dict(init_cfg=dict(type='Normal', std=0.01))],
        data_preprocessor=dict(batch_augments=[dict(size=(1024, 1024))]),
        test_cfg=dict(rcnn=dict(score_thr=0.05), nms=dict(score_thr=1)),
    )
    assert one_model.bare(model) == dict(
        backbone=dict(type='A', init_cfg=None, pretrained=None),
        neck=dict(init_cfg=None),
        head=[dict(init_cfg=dict(type='Normal', std=0.01))],
        data_preprocessor=dict(batch_augments=None),
        test_cfg=dict(rcnn=dict(score_thr=0.0), nms=dict(score_thr=1)),
    )


def test_the_fewest_classes_of_all_heads():
    model = dict(head=[dict(num_classes=80), dict(num_classes=3)], other=dict(deep=dict(num_classes=7)))
    assert one_model.least(model, 'num_classes', 10) == 3 and one_model.least({}, 'num_classes', 10) == 10


def test_what_a_config_asks_for():
    assert one_model.asks(dict(a=[dict(with_mask=True)]), 'with_mask')
    assert not one_model.asks(dict(a=[dict(with_mask=False)], b='with_mask'), 'with_mask')


def test_figures_do_not_depend_on_the_order_of_rows():
    rows = torch.tensor([[1.0, 2], [3, 4]])
    assert one_model.figures_of(rows) == one_model.figures_of(rows.flip(0)) != one_model.figures_of(rows * 1.01)
    nested = dict(b=[rows, 2], a=torch.zeros(0, 4))
    assert one_model.figures_of(nested) == [0, *one_model.figures_of(rows), 2.0]


def test_a_run_ends_whatever_it_does():
    assert one_model.forked(lambda: dict(figures=dict(a=[1]), failed=[]), 20)['figures'] == dict(a=[1])
    failed = one_model.forked(lambda: 1 / 0, 20)['failed']
    assert failed[0][0] == 'build' and 'ZeroDivisionError' in failed[0][1]
    assert 'ended with status' in one_model.forked(lambda: os.abort(), 20)['failed'][0][1]

    def forever():
        while True:
            time.process_time()

    assert 'more than 1 s' in one_model.forked(forever, 1)['failed'][0][1]


def result(name, kernels, figure=1.0, failed=()):
    figures = dict(losses=[figure]) if figure else {}
    return dict(config=name, kernels=kernels, model=name, figures=figures, failed=list(failed), seconds=1)


BROKEN = [('train', 'Traceback\n  File "/a/b.py"\nKeyError: 7')]


def test_outcomes_and_their_table(tmp_path, capsys):
    kinds = {
        'same': ((1.0, ()), (1.0 + 1e-5, ())),
        'differs': ((1.0, ()), (1.1, ())),
        'here only': ((1.0, ()), (0, BROKEN)),
        'compiled only': ((0, BROKEN), (1.0, ())),
        'one step': ((1.0, BROKEN), (1.0, BROKEN)),
        'neither': ((0, BROKEN), (0, BROKEN)),
    }
    path = tmp_path / 'results.jsonl'
    lines = [
        result(k, kernels, *args)
        for k, pair in kinds.items()
        for kernels, args in zip(('stand-in', 'compiled'), pair, strict=True)
    ]
    path.write_text('\n'.join(map(json.dumps, lines)))
    done = all_configs.read(path)
    found = outcomes.outcomes(done, list(kinds), compared=True)
    assert {kind: list(names) for kind, names in found.items()} == {kind: [kind] for kind in kinds}
    alone = outcomes.outcomes(done, list(kinds), compared=False)
    assert list(alone['runs']) == ['same', 'differs', 'here only'] and list(alone['fails']) == [
        'compiled only',
        'one step',
        'neither',
    ]
    unlike = [result('one step', kernels, figure, BROKEN) for kernels, figure in (('stand-in', 1.0), ('compiled', 2.0))]
    unlike = {(each['config'], each['kernels']): each for each in unlike}
    assert list(outcomes.outcomes(unlike, ['one step'], compared=True)) == ['differs']
    outcomes.report(done, list(kinds), compared=True)
    printed = capsys.readouterr().out
    assert '| differs | 1 | 1 |' in printed and '- 1: train: KeyError: 7 (neither)' in printed


@pytest.mark.parametrize(
    ('a', 'b', 'expected'), [([1.0], [1.0], 0), ([1.0], [2.0], 0.5), ([1.0], [1.0, 2.0], float('inf'))]
)
def test_difference_is_relative(a, b, expected):
    assert outcomes.difference(dict(x=a), dict(x=b)) == expected
    assert outcomes.difference(dict(x=[float('nan')]), dict(x=[float('nan')])) == 0
    assert outcomes.difference(dict(x=[float('nan')]), dict(x=[1.0])) > 1


def test_one_method_after_the_other(tmp_path):
    for name in ('a/1.py', 'a/2.py', 'b/1.py', '_base_/x.py'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in all_configs.breadth_first(tmp_path)] == ['a/1.py', 'b/1.py', 'a/2.py']


class Scripted:
    """An environment that finds what is told for each size, one answer after the other."""

    def __init__(self, kernels, busy, **answers):
        self.kernels, self.busy, self.asked = kernels, busy, []
        self.told = {int(size[1:]): list(each) for size, each in answers.items()}

    def ask(self, path, size):
        self.asked.append(size)
        self.busy.append(self.kernels)
        self.together = len(self.busy)

    def answer(self):
        self.busy.remove(self.kernels)
        return dict(failed=[(step, step) for step in self.told[self.asked[-1]].pop(0)], size=self.asked[-1])


def test_what_fails_small_is_tried_with_the_size_of_the_config():
    busy = []
    ours = Scripted('stand-in', busy, s128=[['train', 'predict']], s0=[['predict']])
    theirs = Scripted('compiled', busy, s128=[[]], s0=[[]])
    found = all_configs.answers(Path('x.py'), [ours, theirs], 128)
    assert ours.asked == theirs.asked == [128, 0] and {result['size'] for result in found.values()} == {0}
    worse = Scripted('stand-in', busy, s128=[['predict']], s0=[['Stopped: more than 120 s', 'run']])
    assert all_configs.answers(Path('x.py'), [worse], 128)['stand-in']['size'] == 128


def test_what_is_killed_runs_alone():
    busy, killed = [], f'Stopped: {one_model.KILLED} 9'
    ours = Scripted('stand-in', busy, s128=[[killed], []])
    theirs = Scripted('compiled', busy, s128=[[], []])
    found = all_configs.answers(Path('x.py'), [ours, theirs], 128)
    assert ours.asked == theirs.asked == [128, 128] and ours.together == theirs.together == 1
    assert not found['stand-in']['failed'] and not found['compiled']['failed']
    only = Scripted('stand-in', busy, s128=[[killed]])
    assert all_configs.answers(Path('x.py'), [only], 128)['stand-in']['failed'] and only.asked == [128]


def test_a_stock_model_runs_twice_alike(tmp_path, monkeypatch):
    """A small one, in processes of its own, through the whole sweep."""
    folder = tmp_path / 'configs' / 'fcn'
    folder.mkdir(parents=True)
    backbone = dict(type='mmseg.ResNetV1c', depth=18, base_channels=4, norm_cfg=dict(type='SyncBN'))
    head = dict(type='mmseg.FCNHead', in_channels=32, channels=4, num_classes=3, num_convs=1, in_index=3)
    head['norm_cfg'] = dict(type='MMSyncBN')
    for name in ('one', 'again'):
        model = dict(
            type='mmseg.EncoderDecoder',
            data_preprocessor=dict(type='mmseg.SegDataPreProcessor', size=(64, 64)),
            backbone=backbone,
            decode_head=head,
            test_cfg=dict(mode='whole'),
        )
        (folder / f'{name}.py').write_text(f'model = {model!r}\n')
    environment = all_configs.Environment(sys.executable, 'mmseg', 60)
    paths, results = all_configs.breadth_first(tmp_path / 'configs'), tmp_path / 'results.jsonl'
    all_configs.sweep(paths, tmp_path / 'configs', [environment], results, 64)
    done = all_configs.read(results)
    (first, second) = done.values()
    assert first['failed'] == [] and first['figures'].keys() == {'losses', 'gradients', 'predictions'}
    assert second['figures'] == first['figures'] and len(done) == 2
    monkeypatch.setattr(environment, 'ask', lambda *_: pytest.fail('nothing is run again'))
    all_configs.sweep(paths, tmp_path / 'configs', [environment], results, 64)
    environment.process.stdin.close()
    assert environment.process.wait(60) == 0
