"""Every choice is in the result of a test, and the choice that explains two figures is found."""

from __future__ import annotations

import copy
import json
import re
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
from mmengine.evaluator import Evaluator

from vlm_dense.cli import diff, test
from vlm_dense.comparison import dense, differences
from vlm_dense.comparison.choices import ORDER, choices
from vlm_dense.comparison.results import SCHEMA, figures, read_result
from vlm_dense.engine.runner.launch import read_config
from vlm_dense.errors import DataError
from vlm_dense.segmentation.confusion import class_ious

ROOT = Path(__file__).parents[2]
SCENES = 'test_dataloader.dataset'
SHAPES = ['circle', 'square', 'triangle', 'star', 'cross', 'ring', 'crescent', 'heart']
STEPS = [
    dict(type='vlm_dense.OriginalSize', at_once=True),
    dict(type='vlm_dense.Probabilities', scale=40.0),
    dict(type='vlm_dense.Aliases'),
]


def config(name: str, **options):
    return read_config(Namespace(config=name, cfg_options=options, data_root=None))


def result(tmp_path: Path, method: str, images: int = 6, oracles: bool = False, **options) -> tuple[dict, Path]:
    """Result of a method on drawn scenes, and its file."""
    cells = dense.plan(ROOT / 'configs', [method], ['shapes'], 'tiny-vit', {'shapes': images}, {}, options, tmp_path)
    if oracles:
        cells = dense.plan(ROOT / 'configs', [method], ['shapes'], 'tiny-vit', {}, {}, options, tmp_path, True)
    assert not dense.run_group(cells, tmp_path, 1)
    path = cells[0].file(tmp_path, 'results')
    return read_result(path), path


def explained(capsys, a: Path, b: Path) -> list[str]:
    """The lines of the choices that differ."""
    assert diff.main([str(a), str(b)]) == 1
    lines = capsys.readouterr().out.splitlines()
    return lines[lines.index('') + 2 : lines.index('', lines.index('') + 1)]


# --- the known cases ------------------------------------------------------------------------------------------


def test_a_threshold_on_data_without_background_is_the_line_that_explains_nearly_nothing(tmp_path, capsys):
    """SCLIP, issue 2: 0.07 mIoU, as all pixels below the threshold became the first class, an ordinary one."""
    without = {f'{SCENES}.background': False, 'model.class_names': SHAPES, 'model.postprocess': STEPS}
    threshold = dict(type='vlm_dense.ProbabilityThreshold', thresh=0.999)
    a, first = result(tmp_path / 'a', 'sclip', **without)
    b, second = result(tmp_path / 'b', 'sclip', **{**without, 'model.postprocess': [*STEPS, threshold]})
    assert a['mIoU'] > 30 and b['mIoU'] < a['mIoU'] / 4
    [line] = explained(capsys, first, second)
    assert line.split()[:4] == ['background.threshold', 'none', '->', '0.999'] and 'SCLIP issue 2' in line


def test_an_unstated_threshold_is_the_line_that_explains_another_figure(tmp_path, capsys):
    """ClearCLIP, issue 2: CLIP on VOC with its background, with a threshold of 0.2 that nobody told; here SCLIP."""
    threshold = dict(type='vlm_dense.ProbabilityThreshold', thresh=0.8)  # the bundled tower is surer than CLIP
    a, first = result(tmp_path / 'a', 'sclip', **{'model.postprocess': STEPS})
    b, second = result(tmp_path / 'b', 'sclip', **{'model.postprocess': [*STEPS, threshold]})
    assert abs(a['mIoU'] - b['mIoU']) > 1
    [line] = explained(capsys, first, second)
    assert line.split()[:4] == ['background.threshold', 'none', '->', '0.8'] and 'ClearCLIP issue 2' in line


# --- what differs -------------------------------------------------------------------------------------------------


CHANGED = {
    'data.set.num_scenes': {f'{SCENES}.num_scenes': 7},
    'tower.activation': {'model.backbone.act': 'gelu'},
    'tower.weights': {'model.backbone.pretrained': None},
    'method.attention': {'model.backbone.dense_attention': dict(type='vlm_dense.ClearCLIPAttention')},
    'windows.mode': {'model.test_cfg': dict(mode='slide', crop_size=(64, 64), stride=(32, 32))},
    'size': {f'{SCENES}.pipeline': [dict(type='Resize', scale=(2048, 160), keep_ratio=True)]},
    'pipeline': {f'{SCENES}.pipeline': [dict(type='PhotoMetricDistortion')]},
    'pamr': {'model.postprocess': [STEPS[0], dict(type='vlm_dense.PAMR', iterations=2), *STEPS[1:]]},
    'area_threshold': {'model.postprocess': [*STEPS, dict(type='vlm_dense.AreaThreshold', thresh=0.1)]},
    'temperature': {'model.postprocess': [STEPS[0], dict(type='vlm_dense.Probabilities', scale=7.0), STEPS[2]]},
    'aliases': {'model.postprocess': [*STEPS[:2], dict(type='vlm_dense.Aliases', keep='mean')]},
    'steps': {'model.postprocess': [*STEPS, dict(type='vlm_dense.SumToOne')]},
    'templates.texts': {'model.text_prompt.templates': ['a {}.', 'the {}.']},
    'prompt.lowercase': {'model.text_prompt.lowercase': True},
    'names.classes': {'model.class_names': ['background', 'disc', *SHAPES[1:]]},
    'names.synonyms': {'model.class_names': ['background', ['circle', 'disc'], *SHAPES[1:]]},
    'background.names': {'model.class_names': [['background', 'wall'], *SHAPES]},
    'positions.pos_mode': {'model.backbone.pos_mode': 'bicubic'},
    'colours.mean': {'model.data_preprocessor.mean': [0.0, 0.0, 0.0]},
    'labels.ignored': {'test_evaluator.ignore_index': 0},
    'precision.autocast': {'test_cfg.fp16': True},
}
SAME = {'model.postprocess': STEPS, 'model.class_names': ['background', *SHAPES]}


@pytest.mark.parametrize('choice', CHANGED)
def test_each_choice_is_found_alone(choice):
    a, b = (choices(config('sclip_tiny-vit_shapes', **options)) for options in (SAME, SAME | CHANGED[choice]))
    found = [one.choice for one in differences.differences(a, b)]
    more = {'windows.mode': ['windows.crop_size', 'windows.stride'], 'tower.weights': ['tower.text']}
    assert found == [choice, *more.get(choice, [])]


def test_choices_are_told_by_how_much_they_usually_move():
    threshold = dict(type='vlm_dense.ProbabilityThreshold', thresh=0.5)
    options = SAME | {'model.backbone.pos_mode': 'bicubic', 'model.text_prompt.templates': ['{}']}
    options |= {f'{SCENES}.num_scenes': 3, 'model.postprocess': [*STEPS, threshold]}
    a, b = (choices(config('sclip_tiny-vit_shapes', **x)) for x in (SAME, options))
    found = differences.differences(a, b)
    names = ['data.set.num_scenes', 'background.threshold', 'templates.texts', 'positions.pos_mode']
    assert [one.choice for one in found] == names
    assert [one.moved.name for one in found] == ['data', 'background.threshold', 'templates', 'positions']


def test_every_choice_has_its_place_in_the_order_and_on_the_page():
    page = (ROOT / 'docs' / 'protocols.md').read_text('utf-8')
    rows = [f'| `{one.name}` | {one.what} | {one.seen or "-"} |' for one in ORDER]
    assert '\n'.join(rows) in page
    known = {one.name.partition('.')[0] for one in ORDER}
    found = choices(config('sclip_tiny-vit_shapes'))
    assert known == set(found) and found['prompt']['type'] == 'ZeroShotPrompt'


@pytest.mark.parametrize(
    'name', ['coop_shapes', 'denseclip_shapes', 'fc_clip_shapes', 'cat_seg_shapes', 'clip_fpn_shapes']
)
def test_other_models_have_choices_too(name):
    found = choices(config(name))
    assert found['tower']['arch'].startswith('tiny') and found['labels']['classes'] >= 8
    json.dumps(found)


def test_a_tower_may_be_a_table_of_numbers():
    backbone = dict(type='vlm_dense.CLIPViT', arch=dict(embed_dim=8), pretrained='/nowhere/a.pt')
    cfg = config('sclip_tiny-vit_shapes')
    cfg.model.backbone = backbone
    found = choices(cfg)['tower']
    assert found['arch'] == dict(embed_dim=8) and found['weights'] == 'a.pt' and found['activation'] is None


def test_the_pairs_of_the_page_differ_in_what_it_says():
    page = (ROOT / 'docs' / 'protocols.md').read_text('utf-8')
    rows = re.findall(r'^\| (\S+), (\S+) \| (`.*`) \|$', page, re.MULTILINE)
    assert len(rows) == 6
    for a, b, told in rows:
        found = [one.choice for one in differences.differences(choices(config(a)), choices(config(b)))]
        assert ', '.join(f'`{one}`' for one in found) == told


def test_configs_are_compared_without_data_and_weights(capsys):
    assert diff.main(['sclip_vit-b16_voc21', 'clearclip_vit-b16_voc21']) == 1
    told = capsys.readouterr().out
    assert '10 choices differ' in told
    assert told.index('background.threshold     0.1 -> 0.5') < told.index('[224, 224] -> [448, 448]')
    assert diff.main(['sclip_vit-b16_voc21', 'sclip_vit-b16_voc21']) == 0
    assert 'No choice differs.' in capsys.readouterr().out


def test_classes_are_told_by_how_much_they_moved(tmp_path, capsys):
    made = choices(config('sclip_tiny-vit_shapes'))
    for name, ious in (('a', [50.0, 20.0, None, 10.0]), ('b', [49.0, 60.0, 5.0, 10.0])):
        classes = dict(zip(SHAPES[:4], ious, strict=True))
        one = dict(schema=SCHEMA, config=name, choices=made, images=1, metrics=dict(mIoU=ious[1]), classes=classes)
        (tmp_path / f'{name}.json').write_text(json.dumps(one))
    out = tmp_path / 'out.json'
    words = [str(tmp_path / 'a.json'), str(tmp_path / 'b.json')]
    assert diff.main([*words, '--json', str(out)]) == 1
    told = capsys.readouterr().out
    assert 'No choice differs.' in told and 'mIoU   20.00 ->  60.00  +40.00' in told
    found = json.loads(out.read_text())
    assert [one['name'] for one in found['classes']] == ['triangle', 'square', 'circle']
    assert [one['change'] for one in found['classes']] == [None, 40.0, -1.0]
    assert diff.main([*words, '--classes', '1']) == 1
    assert 'square' not in capsys.readouterr().out
    assert diff.main([words[0]] * 2) == 0
    assert 'All figures are the same.' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('text', 'words'), [('{', 'no result of a test'), ('{"mIoU": 3}', '"choices"'), ('[]', '"choices"')]
)
def test_what_is_no_result_is_told(tmp_path, text, words):
    (tmp_path / 'a.json').write_text(text)
    with pytest.raises(DataError, match=words):
        read_result(tmp_path / 'a.json')
    with pytest.raises(DataError, match='holds no result.json'):
        read_result(tmp_path)


# --- results --------------------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def tested(tmp_path_factory):
    """Work dir of a test with oracles."""
    folder = tmp_path_factory.mktemp('tested')
    options = ['--cfg-options', f'{SCENES}.num_scenes=8']
    metrics = test.main(['maskclip_tiny-vit_shapes', '--work-dir', str(folder), '--oracles', *options])
    return folder, metrics


def test_a_test_writes_its_choices_and_the_figures_of_every_class(tested):
    folder, metrics = tested
    found = read_result(folder)
    assert found['config'] == 'maskclip_tiny-vit_shapes' and found['images'] == 8
    assert found['metrics']['mIoU'] == metrics['mIoU'] == pytest.approx(found['mIoU'], abs=0.006)
    matrix = np.pad(found['confusion'], ((0, 1), (0, 1)))
    assert matrix.sum() == 8 * 96 * 96 and list(found['classes']) == ['background', *SHAPES]
    np.testing.assert_allclose(100 * class_ious(matrix), list(found['classes'].values()))
    made = found['choices']
    assert made['tower']['activation'] == 'QuickGELU' and len(made['tower']['digest']) == 12
    assert made['precision']['numbers'] == 'float32' and made['data']['images']['number'] == 8
    assert len(made['templates']['texts']) == 85 and made['background']['names'][0] == 'empty background'


def test_a_test_with_oracles_reports_them(tested):
    _, metrics = tested
    assert metrics['oracle_masks_mIoU'] > metrics['mIoU'] > metrics['boundary_mIoU'] > 0
    assert metrics['interior_mIoU'] > metrics['boundary_mIoU'] and 0 < metrics['ECE'] < 100
    assert metrics['oracle_classes_mIoU'] > metrics['mIoU']


def test_the_comparison_and_the_test_give_one_result(tested, tmp_path, capsys):
    options = {f'{SCENES}.num_scenes': 8}
    found, path = result(tmp_path, 'maskclip', oracles=True, **options)
    whole = read_result(tested[0])
    assert {k: found[k] for k in ('mIoU', 'classes', 'confusion', 'choices')} == {
        k: whole[k] for k in ('mIoU', 'classes', 'confusion', 'choices')
    }
    assert found['metrics'].items() <= whole['metrics'].items() and 'ECE' in found['metrics']


def test_images_are_told_apart_by_their_list(tmp_path):
    a, b = (choices(config('sclip_tiny-vit_shapes'), None, [dict(img_path=f'/data/{n}.png')]) for n in 'ab')
    [one] = differences.differences(a, b)
    assert one.choice == 'data.images.digest'
    cfg = config('clearclip_tiny-vit_camvid')
    elsewhere = copy.deepcopy(cfg)
    for one, root in ((cfg, '/here'), (elsewhere, '/there')):
        one.test_dataloader.dataset.data_root = root
    same = [choices(c, None, [dict(img_path=f'{r}/x.png')]) for c, r in ((cfg, '/here'), (elsewhere, '/there'))]
    assert differences.differences(*same) == []


def test_labels_that_are_no_class_are_in_the_matrix_of_a_result():
    matrix = np.array([[3, 0, 0], [0, 2, 0], [1, 0, 0]])
    found = figures(matrix, ['a', 'b'])
    assert found['confusion'] == matrix.tolist() and found['classes'] == dict(a=75.0, b=100.0)
    assert figures(matrix * [[1], [1], [0]], ['a', 'b'])['confusion'] == [[3, 0], [0, 2]]
    assert figures(np.zeros((3, 3), int), ['a', 'b'])['mIoU'] is None


def test_metrics_beside_the_counts_keep_their_order(tmp_path):
    [cell] = dense.plan(ROOT / 'configs', ['sclip'], ['shapes'], 'tiny-vit', {}, {}, {}, tmp_path, True)
    evaluator = dense._evaluator(cell, dict(classes=['a']))
    assert isinstance(evaluator, Evaluator) and [type(m).__name__ for m in evaluator.metrics] == [
        'ConfusionMatrix',
        'IoUMetric',
        'OracleMetric',
    ]
