"""Protocols of the comparison: what they train and test, end to end on toy methods, and their tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.config import Config
from tiny_towers import resnet, vit

from vlm_dense.cli import compare
from vlm_dense.comparison import report, runs
from vlm_dense.comparison.cells import plan
from vlm_dense.comparison.drawn import dicts
from vlm_dense.comparison.protocols import PROTOCOLS
from vlm_dense.errors import ConfigError

ROOT = Path(__file__).parents[2]

TOY = f"""
_base_ = '{ROOT}/configs/_base_/classification_runtime.py'
arch = {vit(text=dict(layers=1), patch_size=16, layers=1)!r}
model = dict(
    type='vlm_dense.CLIPClassifier',
    data_preprocessor=dict(type='vlm_dense.ClsDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3, bgr_to_rgb=True),
    backbone=dict(type='vlm_dense.CLIPViT', arch=arch, head=True),
    text_encoder=dict(type='vlm_dense.TextTower', arch=arch),
    text_prompt=dict(type='vlm_dense.CoOpPrompt', num_contexts=2),
)
draw = [dict(type='vlm_dense.DrawScene')]
scene = dict(type='vlm_dense.ShapesDataset', size=32, num_objects=(1, 1), label='colour', num_scenes=48)
pack = [dict(type='vlm_dense.PackClsInputs')]
loader = dict(batch_size=8, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False))
val_evaluator = val_cfg = val_dataloader = None
test_evaluator = dict(type='vlm_dense.Accuracy')
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=1)
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))
"""
PLAIN = """
few = dict(type='vlm_dense.FewShotDataset', shots=16, dataset=dict(scene, pipeline=draw + pack))
train_dataloader = dict(loader, dataset=few)
test_dataloader = dict(loader, dataset=dict(scene, split='test', pipeline=draw + pack))
source = dict(domain='source')
domains = dict(night=dict(domain='night'), sketch=dict(domain='sketch'))
targets = dict(shape=dict(label='shape'))
single_tasks = dict(shape=dict(label='shape'), colour=dict(label='colour'))
"""
SEVERAL = f"""
arch = {resnet(text=dict(layers=1), image_size=32)!r}
model['text_encoder']['arch'] = arch
model['backbone'] = dict(type='vlm_dense.CLIPResNet', arch=arch, attnpool=True)
scene.update(num_objects=(2, 3))
pack[0].update(multi_label=True)
train_dataloader = dict(loader, dataset=dict(scene, pipeline=draw + pack))
test_dataloader = dict(loader, dataset=dict(scene, split='test', pipeline=draw + pack))
test_evaluator = dict(type='vlm_dense.MultiLabelMetric')
model['text_prompt'] = dict(type='vlm_dense.DualCoOpPrompt', num_contexts=2)
model['loss'] = dict(type='vlm_dense.AsymmetricLoss')
"""
TREE = """
train_dataloader = dict(loader, dataset=dict(scene, pipeline=draw + pack))
test_dataloader = dict(loader, dataset=dict(scene, split='test', pipeline=draw + pack))
test_evaluator = dict(type='vlm_dense.TaxonomyMetric')
classes = ['red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink']
taxonomy = dict(warm=['red', 'orange', 'yellow', 'pink'], cold=['green', 'cyan', 'blue', 'purple'])
model['class_names'] = ['warm', *taxonomy['warm'], 'cold', *taxonomy['cold']]
model['loss'] = dict(type='vlm_dense.ProTeCtLoss', taxonomy=taxonomy, classes=classes)
"""
JOINT = """
parts = [dict(scene, label=label, pipeline=draw + pack) for label in ('shape', 'colour')]
few = [dict(type='vlm_dense.FewShotDataset', shots=16, dataset=part) for part in parts]
tests = [dict(part, split='test') for part in parts]
train_dataloader = dict(loader, dataset=dict(type='vlm_dense.TaskDataset', tasks=['shape', 'colour'], datasets=few))
test_dataloader = dict(loader, dataset=dict(type='vlm_dense.TaskDataset', tasks=['shape', 'colour'], datasets=tests))
test_evaluator = dict(type='vlm_dense.TaskAccuracy')
model['loss'] = dict(type='vlm_dense.TaskCrossEntropy')
"""
METHODS = dict(plain=PLAIN, several=SEVERAL, tree=TREE, joint=JOINT)


@pytest.fixture(scope='module')
def configs(tmp_path_factory):
    folder = tmp_path_factory.mktemp('configs')
    for method, text in METHODS.items():
        (folder / f'{method}_toy.py').write_text(TOY + text)
    return folder


def compared(configs, out, monkeypatch, *arguments) -> tuple[list[dict], str]:
    """Rows and page of a comparison."""
    monkeypatch.setattr(compare, 'CONFIGS', configs)
    common = ['--datasets', 'toy', '--seeds', '1', '--shots', '1', '--workers', '1', '--out', str(out)]
    assert compare.main([*common, *arguments]) == 0
    return report.read_csv(out / 'results.csv'), (out / 'results.md').read_text()


# --- end to end -------------------------------------------------------------------------------------------------------


def test_one_training_on_the_source_is_tested_on_other_domains_and_classes(configs, tmp_path, monkeypatch):
    arguments = ['--protocols', 'domain-generalisation', 'transfer', '--methods', 'plain']
    rows, page = compared(configs, tmp_path, monkeypatch, *arguments)
    found = {(row['protocol'], row['test']): row['value'] for row in rows}
    assert set(found) == {('domain-generalisation', test) for test in ('source', 'night', 'sketch')} | {
        ('transfer', test) for test in ('source', 'shape')
    }
    assert found['domain-generalisation', 'source'] == found['transfer', 'source']
    assert len(list(tmp_path.glob('cells/*/train'))) == 1
    mean = (found['domain-generalisation', 'night'] + found['domain-generalisation', 'sketch']) / 2
    assert '| method | source | night | sketch | average |' in page
    assert f'| plain | {found["transfer", "source"]:.1f} |' in page and f'| {mean:.1f} |' in page


def test_several_labels_have_four_metrics_and_no_shots(configs, tmp_path, monkeypatch):
    rows, page = compared(configs, tmp_path, monkeypatch, '--protocols', 'multi-label', '--methods', 'several')
    assert [row['metric'] for row in rows] == ['mAP', 'CF1', 'OF1', 'F1@3'] and {row['shots'] for row in rows} == {0}
    assert '## toy, multi-label\n\nAll images:\n\n| method | mAP | CF1 | OF1 | F1@3 |' in page
    values = ' | '.join(f'{row["value"]:.1f}' for row in rows)
    assert f'| several | {values} |' in page and rows[0]['value'] > 0


@pytest.mark.slow
def test_seen_and_unseen_classes_stand_beside_their_harmonic_mean(tmp_path, monkeypatch):
    arguments = ['--datasets', 'shapes', '--protocols', 'open-vocabulary', '--methods', 'maskclip_tiny-vit_held-out']
    few = ['--cfg-options', 'test_dataloader.dataset.num_scenes=2', 'test_dataloader.dataset.num_objects=(5,6)']
    rows, page = compared(ROOT / 'configs', tmp_path, monkeypatch, *arguments, *few)
    seen, unseen, both = (row['value'] for row in rows)
    assert [row['metric'] for row in rows] == ['seen_mIoU', 'unseen_mIoU', 'hIoU']
    assert seen > 0 and abs(both - 2 * seen * unseen / (seen + unseen)) < 0.02
    assert '| method | seen_mIoU | unseen_mIoU | hIoU |' in page and '| minutes |' in page


def test_models_of_open_vocabularies_are_trained_on_the_same_scenes_and_nothing_is_chosen_on_them():
    methods = ['maskclip_plus_held-out', 'cat_seg', 'sed', 'san', 'fc_clip', 'maft_plus', 'mask_adapter']
    found = plan(ROOT / 'configs', methods, ['shapes'], ['open-vocabulary'], [1], [0, 1])
    assert {(cell.selection, cell.shots, cell.seed) for cell in found} == {('none', 0, 0), ('none', 0, 1)}
    for cell in found:
        own = cell.train['train_dataloader']['dataset']
        assert own.get('held_out') or own['classes'] == ['circle', 'square', 'triangle', 'star', 'cross', 'ring']
        assert cell.train['randomness']['seed'] == cell.seed and cell.train['val_cfg'] is None


def test_detectors_by_text_are_tested_with_and_without_the_opinion_of_clip_on_the_same_weights():
    methods = ['f_vlm', 'f_vlm_retinanet', 'f_vlm_fixed-classes', 'f_vit', 'f_vit_fixed-classes']
    found = plan(ROOT / 'configs', methods, ['shapes'], ['open-vocabulary-detection'], [1], [3])
    assert [cell.selection for cell in found] == ['none'] * 5
    for cell in found:
        fixed = cell.method.endswith('fixed-classes')
        assert list(cell.tests) == (['test'] if fixed else ['test', 'heads']) and cell.train['randomness']['seed'] == 3
        drawn = cell.train['train_dataloader']['dataset']
        assert drawn.get('held_out') == ['crescent', 'heart'] if fixed else len(drawn['classes']) == 6
        for name, test in cell.tests.items():
            head = test['model'].get('roi_head') or test['model']['bbox_head']
            assert (head.get('scorer') is not None) == (name == 'test' and not fixed)
    metrics = {'coco/base_ap50': 0.5, 'coco/novel_ap50': 0.25, 'coco/bbox_mAP_50': 0.4, 'coco/bbox_mAP': 0.1}
    told = PROTOCOLS['open-vocabulary-detection'].values
    assert told('test', metrics)[1] == ('test', 'novel_ap50', 25.0)
    assert told('heads', metrics)[2] == ('heads', 'bbox_mAP_50, heads alone', 40.0)


def test_a_tree_has_the_accuracy_of_leaves_and_consistency(configs, tmp_path, monkeypatch):
    rows, page = compared(configs, tmp_path, monkeypatch, '--protocols', 'hierarchical', '--methods', 'tree')
    found = {row['metric']: row['value'] for row in rows}
    assert list(found) == ['top1', 'HCA', 'MTA'] and found['HCA'] <= found['top1'] <= found['MTA']
    assert '| method | top1 | HCA | MTA |' in page


def test_tasks_of_one_run_stand_beside_one_run_a_task(configs, tmp_path, monkeypatch):
    rows, page = compared(configs, tmp_path, monkeypatch, '--protocols', 'tasks', '--methods', 'joint', 'plain')
    assert [(row['method'], row['test']) for row in rows] == [
        (method, task) for method in ('joint', 'plain') for task in ('shape', 'colour')
    ]
    assert len(list(tmp_path.glob('cells/plain*/train'))) == 2 and len(list(tmp_path.glob('cells/joint*/train'))) == 1
    assert '| method | shape | colour | average |' in page
    for method in ('joint', 'plain'):
        own = [row['value'] for row in rows if row['method'] == method]
        assert f'| {method} | {own[0]:.1f} | {own[1]:.1f} | {sum(own) / 2:.1f} |' in page


# --- plan -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'protocol,method,message',
    [
        (
            'multi-label',
            'plain',
            'plain on toy: --protocols multi-label needs .* vlm_dense.MultiLabelMetric, found Acc',
        ),
        ('open-vocabulary-detection', 'plain', 'needs a config with the test_evaluator vlm_dense.OVCocoMetric'),
        ('open-vocabulary', 'plain', 'needs a config with the test_evaluator vlm_dense.SeenUnseenIoUMetric, found Acc'),
        ('hierarchical', 'several', 'needs a config with the test_evaluator vlm_dense.TaxonomyMetric, found Multi'),
        ('tasks', 'several', 'several on toy: --protocols tasks needs a config with a vlm_dense.TaskDataset'),
        ('transfer', 'joint', 'joint on toy: its config has no targets, so --protocols transfer has no test set'),
        ('domain-generalisation', 'tree', 'no domains, so --protocols domain-generalisation has no test set'),
    ],
)
def test_a_config_that_does_not_fit_a_protocol_is_refused(protocol, method, message, configs):
    with pytest.raises(ConfigError, match=message):
        plan(configs, [method], ['toy'], [protocol], [1], [1])


def cells(*methods, protocol='base-to-new', dataset='pairs-sketch'):
    return plan(ROOT / 'configs', list(methods), [dataset], [protocol], [4], [1])


def scenes(cfg) -> list[dict]:
    return [node for node in dicts(cfg) if str(node.get('type')).endswith('ShapesDataset')]


def test_a_drawn_set_without_config_is_made_of_that_for_shapes():
    for cell in cells('coop', 'maple', 'tip_adapter'):
        for cfg, classes in ((cell.train, 'base'), (cell.tests['base'], 'base')):
            for scene in scenes(cfg) if cfg else []:
                assert (scene['label'], scene['domain'], scene['classes']) == ('shape_colour', 'sketch', classes)
        assert cell.tests['new']['test_dataloader']['dataset'].get('dataset', scenes(cell.tests['new'])[0])
    with pytest.raises(ConfigError, match="'cop' is not in the methods with a config for pairs-night .* mean 'coop'"):
        cells('cop', dataset='pairs-night')
    with pytest.raises(ConfigError, match="'pairs-nigth' is not in the data sets.* Did you mean 'pairs-night'"):
        cells('coop', dataset='pairs-nigth')


def test_features_replace_images_only_where_training_leaves_the_image_tower_alone():
    def kinds(method: str) -> set[str]:
        (cell,) = cells(method)
        return {node['dataset']['type'].split('.')[-1] for node in dicts(cell.train) if 'sampler' in node}

    for method in ('coop', 'plot', 'clip_adapter', 'upl'):
        assert kinds(method) == {'FeatureDataset'}, method
    for method in ('maple', 'vp', 'lasp', 'fine_tuning', 'svl_adapter'):
        assert kinds(method) == {'FewShotDataset', 'ShapesDataset'}, method
    (tip,) = cells('tip_adapter')
    data = tip.tests['base']['default_hooks']['prepare']['data']
    assert data['support']['dataset']['copies'] == 4 and data['search']['dataset']['type'] == 'vlm_dense.FeatureDataset'
    (test_time,) = cells('tpt')
    assert test_time.tests['new']['test_dataloader']['dataset']['type'] == 'vlm_dense.ShapesDataset'


@pytest.mark.parametrize(
    'method,entries', [('cupl', []), ('coop', []), ('taskres', ['text_prompt.text_feature_residuals'])]
)
def test_what_belongs_to_the_classes_is_found_without_a_class_that_nobody_describes(method, entries):
    (cell,) = cells(method)
    cfg = Config(cell.train or cell.tests['base'])
    assert runs._of_each_class(cfg, runs._names(cfg)) == entries


def test_as_many_labels_are_guessed_as_others_are_given():
    (cell,) = cells('upl')
    assert [node['top_k'] for node in dicts(cell.train) if 'top_k' in node] == [4]
    assert cell.labels == 'guessed'


def test_where_the_labels_come_from_is_read_from_the_config():
    found = {cell.method: cell.labels for cell in cells('coop', 'upl', 'zero_shot', 'tip_adapter', 'calip')}
    assert found == dict(coop='given', upl='guessed', zero_shot='none', tip_adapter='given', calip='none')
    (captions,) = cells('tai_dpt', protocol='multi-label', dataset='shapes')
    assert captions.labels == 'none'


# --- tables -----------------------------------------------------------------------------------------------------------


def row(method: str, value: float, **changes) -> dict:
    plain = dict(dataset='toy', protocol='few-shot', test='test', shots=1, seed=1, metric='top1', tower='RN50')
    plain |= dict(selection='none', labels='given', transductive=False, trained_parameters=1, seconds_per_step=0.5)
    return plain | dict(method=method, value=value, peak_memory_mb=100.0, minutes=1.0) | changes


def test_what_sees_test_images_or_no_label_has_columns_of_its_own():
    rows = [row('a', 40.0), row('b', 50.0, labels='guessed'), row('c', 60.0, selection='test')]
    rows += [row('d', 70.0, transductive=True, labels='guessed'), row('e', 80.0, labels='none')]
    page = report.markdown(rows, [], {}, 'command')
    assert '| method | 1 shot | 1 shot, chosen on test images | 1 shot, labels guessed | 1 shot, transductive |' in page
    for line in ('| a | 40.0 | - | - | - |', '| b | - | - | 50.0 | - |', '| c | - | 60.0 | - | - |'):
        assert line in page
    assert '| d | - | - | - | 70.0 |' in page and '| e | 80.0 | - | - | - |' in page


def test_an_average_needs_all_of_its_tests():
    rows = [row(m, v, protocol='tasks', test=t) for m, v, t in (('a', 40, 'x'), ('a', 60, 'y'), ('b', 10, 'x'))]
    page = report.markdown(rows, [], {}, 'command')
    assert '| a | 40.0 | 60.0 | 50.0 |' in page and '| b | 10.0 | - | - |' in page


def test_figures_of_an_older_comparison_are_read(tmp_path):
    report.write_csv([row('a', 1.0)], tmp_path / 'new.csv')
    lines = [line.split(',') for line in (tmp_path / 'new.csv').read_text().splitlines()]
    place = lines[0].index('labels')
    (tmp_path / 'old.csv').write_text('\n'.join(','.join(c for i, c in enumerate(x) if i != place) for x in lines))
    assert report.read_csv(tmp_path / 'old.csv') == [row('a', 1.0)]


def test_a_protocol_without_shots_is_one_cell_a_seed():
    found = plan(ROOT / 'configs', ['dualcoop'], ['shapes'], ['multi-label'], [1, 4, 16], [1, 2])
    assert [(cell.shots, cell.seed) for cell in found] == [(0, 1), (0, 2)]


def test_the_command_line_names_every_protocol():
    assert tuple(PROTOCOLS) == compare.PROTOCOLS
