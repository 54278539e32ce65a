"""A config with each choice of other protocols: what changes is that choice, and a stopped run goes on."""

from __future__ import annotations

import copy
import json

import pytest

from vlm_dense.cli import ablate
from vlm_dense.comparison import ablation, dense, differences
from vlm_dense.comparison.choices import choices
from vlm_dense.comparison.results import read_result
from vlm_dense.engine.configs.names import CONFIGS, find_config
from vlm_dense.errors import ConfigError

SHAPES = ['circle', 'square', 'triangle', 'star', 'cross', 'ring', 'crescent', 'heart']
CONFIG = 'sclip_tiny-vit_shapes'
WORDS = ['--images', '1', '--protocols', 'naclip', 'cat_seg', '--choices', 'pamr', 'temperature', 'positions', '-q']
OF_CHOICES = dict(
    threshold='background.threshold',
    size='size',
    windows='windows',
    pamr='pamr',
    synonyms='names',
    area='area_threshold',
    temperature='temperature',
    templates='templates',
    positions='positions',
)
"""Name of a choice -> what tells it in a result."""


@pytest.fixture(scope='module')
def own(tmp_path_factory):
    names = [['background', 'wall'], ['circle', 'disc'], *SHAPES[1:]]
    return dense.read_cell(find_config(CONFIG), {'model.class_names': names}, None, tmp_path_factory.mktemp('own'))


@pytest.fixture(scope='module')
def others():
    return {name: ablation.protocol_config(CONFIGS, name, 'voc21') for name in ablation.PROTOCOLS}


def test_the_program_names_what_there_is():
    assert ablate.PROTOCOLS == ablation.PROTOCOLS
    assert (*(part.name for part in ablation.PARTS), ablation.ALL) == ablate.CHOICES
    assert set(OF_CHOICES) == {part.name for part in ablation.PARTS}


@pytest.mark.parametrize('part', ablation.PARTS, ids=lambda part: part.name)
def test_a_choice_of_a_protocol_changes_itself_alone(part, own, others):
    changed = 0
    for other in others.values():
        if not ablation._differs(part, own, other):
            continue
        cfg = copy.deepcopy(own)
        part.put(cfg, copy.deepcopy(part.get(other)))
        assert not ablation._differs(part, cfg, other)
        found = {one.choice for one in differences.differences(choices(own), choices(cfg))}
        assert found and all(name.startswith(OF_CHOICES[part.name]) or part.name == 'synonyms' for name in found)
        assert part.name != 'synonyms' or found <= {'names.synonyms', 'background.names'}
        changed += 1
    assert changed


def test_steps_come_where_they_belong(own, others):
    cfg = copy.deepcopy(own)
    for name, kind in (('threshold', 'sclip'), ('pamr', 'naclip'), ('area', 'sclip')):
        part = next(part for part in ablation.PARTS if part.name == name)
        part.put(cfg, part.get(others[kind]))
    kinds = [step['type'].partition('.')[2] for step in cfg.model.postprocess]
    assert kinds == ['OriginalSize', 'PAMR', 'Probabilities', 'Aliases', 'AreaThreshold', 'ProbabilityThreshold']


def test_equal_configs_are_run_once(own, others):
    trials = ablation.plan(own, 'x', 2, {name: others[name] for name in ('sclip', 'naclip')}, ['size', 'pamr'])
    size = [trial.cell for trial in trials if trial.choice == 'size']
    assert size[0] is size[1] and size[0].key != trials[0].cell.key
    assert [trial.cell is None for trial in trials if trial.choice == 'pamr'] == [True, False]


def test_a_data_set_has_the_settings_of_one_with_its_background(own):
    assert ablation.like_of(own, CONFIG) == 'voc21'
    assert ablation.like_of(own, 'sclip_vit-b16_cityscapes') == 'cityscapes'
    with pytest.raises(ConfigError, match="Did you mean 'voc21'"):
        ablation.protocol_config(CONFIGS, 'sclip', 'voc22')
    assert ablation.protocol_config(CONFIGS, 'cat_seg', 'voc21').filename.endswith('cat_seg_vit-b16_voc20.py')


@pytest.fixture(scope='module')
def ablated(tmp_path_factory):
    out = tmp_path_factory.mktemp('ablated')
    return out, ablate.main([CONFIG, *WORDS, '--out', str(out)])


def test_the_table_has_the_difference_of_each_choice(ablated):
    out, status = ablated
    assert status == 0
    rows = json.loads((out / 'results.json').read_text())['rows']
    results = {path.stem.partition('_')[0]: read_result(path) for path in (out / 'results').glob('*.json')}
    assert set(results) == {'own', 'pamr-naclip', 'positions-cat'}
    for row in rows[1:]:
        run = row['state'] == 'run'
        assert run == ((row['choice'], row['protocol']) in (('pamr', 'naclip'), ('positions', 'cat_seg')))
        if run:
            found = results[f'{row["choice"]}-{row["protocol"]}'.partition('_')[0]]
            assert row['change'] == pytest.approx(found['mIoU'] - results['own']['mIoU'])
            told = differences.differences(results['own']['choices'], found['choices'])
            assert {one.moved.name for one in told} == {row['choice']}
    text = (out / 'results.md').read_text()
    assert f'mIoU {results["own"]["mIoU"]:.1f}' in text and '| temperature | = | - |' in text
    assert text.count('moves most') == 1


def test_finished_runs_are_not_made_again(ablated, monkeypatch):
    out, _ = ablated
    before = (out / 'results.md').read_text()
    monkeypatch.setattr(dense, 'run_group', lambda *args: pytest.fail('run again'))
    assert ablate.main([CONFIG, *WORDS, '--out', str(out)]) == 0
    assert (out / 'results.md').read_text() == before


def test_a_run_that_fails_is_told(own, others, tmp_path):
    trials = ablation.plan(own, 'x', 2, {'naclip': others['naclip']}, ['pamr'])
    rows = ablation.rows_of(trials, tmp_path, {trials[1].cell: 'ConfigError: no luck'})
    text = ablation.markdown(rows, 'x', '2 images', 'voc21', 'command')
    assert '| pamr | failed ([8, 16]) |' in text and '- pamr of naclip: ConfigError: no luck' in text
