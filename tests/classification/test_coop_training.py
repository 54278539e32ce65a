"""CoOp on drawn scenes as a user runs it, made small: zero-shot before, accuracy after, resumed bit for bit."""

from __future__ import annotations

import re

import pytest
import torch
from classification.small_runs import SMALL, evaluate, train, weights


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return train(tmp_path_factory.mktemp('coop'))


def test_zero_shot_before_and_accuracy_after_are_told(run):
    log = next(run.glob('*/*.log')).read_text()
    before = re.search(r"Before training, zero-shot with 'a photo of a {}.': (top1 \S+, mean_class \S+)", log)[1]
    after, again = re.search(r'After training: (top1 \S+, mean_class \S+) \(zero-shot: (.*)\)', log).groups()
    assert again == before != after


def test_the_checkpoint_holds_the_prompt_alone_and_can_be_tested(run):
    assert set(weights(run / 'epoch_4.pth')) == {'text_prompt.ctx'}
    evaluate(run / 'test', *SMALL, config='coop', more=(str(run / 'epoch_4.pth'),))
    after = re.search(r'After training: top1 (\S+),', next(run.glob('*/*.log')).read_text())[1]
    tested = re.search(r'top1: (\S+)', next((run / 'test').glob('*/*.log')).read_text())[1]
    assert float(tested) == pytest.approx(float(after), abs=0.01)


def test_a_resumed_run_equals_an_uninterrupted_one(run, tmp_path):
    resume = ('--resume', str(run / 'epoch_2.pth'))
    again = train(tmp_path, resume=resume)
    assert torch.equal(
        weights(again / 'epoch_4.pth')['text_prompt.ctx'], weights(run / 'epoch_4.pth')['text_prompt.ctx']
    )


@pytest.mark.parametrize('config', ['cocoop', 'kgcoop'])
def test_the_other_configs_train(config, tmp_path):
    work_dir = train(tmp_path, 'train_cfg.max_epochs=1', config=config)
    assert 'After training: top1' in next(work_dir.glob('*/*.log')).read_text()
