"""Plans of comparisons hold what the papers say, for every method on CoOp's eleven sets; and what a plan refuses."""

from __future__ import annotations

import json

import pytest
from tools.published_facts import ELEVEN, FACTS, facts

from vlm_dense.classification.datasets import SETS
from vlm_dense.comparison import plans
from vlm_dense.comparison.cells import plan
from vlm_dense.engine.configs.files import load_config
from vlm_dense.engine.configs.names import CONFIGS, list_configs
from vlm_dense.errors import ConfigError

METHODS = sorted(
    path.stem.removesuffix('_imagenet') for path in list_configs(CONFIGS) if path.stem.endswith('_imagenet')
)
CELLS = [('few-shot', 1), ('few-shot', 16), ('base-to-new', 16)]
MORE = dict(prograd=('base-to-new', 4), subpt=('base-to-new', 4), tcp=('few-shot', 4), clip_lora=('few-shot', 8))


def at(cfg, key: str):
    for part in key.split('.'):
        cfg = cfg[int(part)] if isinstance(cfg, (list, tuple)) else cfg[part]
    return list(cfg) if isinstance(cfg, tuple) else cfg


def differences(cell, told: dict, known: dict) -> list[str]:
    """Where a plan, or the config behind it, is not what is published."""
    cfg, found = cell.train or cell.tests[next(iter(cell.tests))], []

    def compare(what: str, is_, published) -> None:
        if is_ != (pytest.approx(published) if isinstance(published, float) else published):
            found.append(f'{cell}: {what} is {is_!r}, published is {published!r}')

    training = told['training']
    if known['training'] is None:
        compare('training', training, None)
    else:
        length, unit, batch, rate = known['training']
        for name, value in (('length', length), ('unit', unit), ('batch', batch)):
            compare(name, training[name], value)
        for group, value in {'all': rate, **known.get('rates', {})}.items():
            compare(f'rate of {group}', training['rates'].get(group), float(value))
        for group, value in known['warm_up'].items():
            compare(f'warm-up of {group}', training['warm_up'].get(group), value)
    for key, value in known.get('sentences', {}).items():
        compare(key, told['sentences'].get(key), value)
    for key, value in known.get('switches', {}).items():
        compare(key, at(cfg, key), float(value) if isinstance(value, (int, float)) and value not in (0, 1) else value)
    return found


@pytest.mark.parametrize('method', METHODS)
def test_a_plan_is_what_is_published(method, record_property):
    where = CELLS + ([MORE[method]] if method in MORE else [])
    cells = [c for p, n in where for c in plan(CONFIGS, [method], list(ELEVEN), [p], [n], [1])]
    told = plans.plans(cells, CONFIGS)
    checked, wrong = 0, []
    for cell, each in zip(cells, told, strict=True):
        known = facts(cell.method, cell.dataset, cell.protocol, cell.shots)
        assert (each['published'] == 'published') == (known is not None), (str(cell), each['published'])
        if known is not None:
            checked += 1
            wrong += differences(cell, each, known)
    record_property('cells', len(cells))
    record_property('checked', checked)
    assert not wrong, '\n'.join(wrong)
    assert checked or method.removesuffix('_on-test').replace('upl_star', 'upl') not in FACTS


def test_the_program_prints_plans_and_runs_nothing(capsys, tmp_path):
    from vlm_dense.cli.compare import main

    command = ['--methods', 'clip_lora', 'lasp', '--datasets', 'dtd', '--shots', '4', '--seeds', '1', '2']
    assert main([*command, '--plan', '--out', str(tmp_path / 'out')]) == 0
    text = capsys.readouterr().out
    assert (
        '| clip_lora | dtd | few-shot | 4 | ViT-B-16 | a photo of a {}. | data set: dtd | 2000 iterations | 32 |'
        in text
    )
    assert 'backbone: 0.0032' in text and '| 1 2 |' in text and '4 cells, 2 of them with settings that no paper' in text
    assert main([*command, '--plan', '--json', '-', '--out', str(tmp_path / 'out')]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(each['method'], each['seed']) for each in told] == [(m, s) for m in ('clip_lora', 'lasp') for s in (1, 2)]
    assert told[2]['differs']['model.text_prompt.weight'] == [5.0, 10.0]
    assert told[2]['augmentation'][0].startswith('RandomResizedCrop(size=224') and told[2]['size'] == 224
    assert not (tmp_path / 'out').exists()


def test_search_sets_and_class_names_are_told():
    (cell,) = plan(CONFIGS, ['tip_adapter'], ['dtd'], ['few-shot'], [4], [1])
    told = plans.tell(cell, CONFIGS)
    assert told['search'] == {'search': 'val, all images'} and told['class_names'] == 'data set: dtd'
    assert told['fitted']['alpha'] == 2.0 and told['selection'] == 'validation'
    (cell,) = plan(CONFIGS, ['coop'], ['dtd'], ['base-to-new'], [4], [1])
    assert plans.tell(cell, CONFIGS)['tests'] == {'base': 'dtd, classes base', 'new': 'dtd, classes new'}


def test_a_test_set_with_settings_of_its_own_is_told():
    (cell,) = plan(CONFIGS, ['tda'], ['imagenet'], ['domain-generalisation'], [16], [1])
    changes = plans.tell(cell, CONFIGS)['test_changes']
    assert changes['imagenet-sketch']['model.test_time.positive.alpha'] == 2.363
    assert changes['imagenet-a']['test_dataloader.dataset.pipeline.1.num_views'] == 64
    (cell,) = plan(CONFIGS, ['vpt_variational'], ['imagenet'], ['transfer'], [16], [1])
    told = plans.tell(cell, CONFIGS)
    assert told['published'] == 'published' and told['test_changes'] == {}  # 10 samples on every target


@pytest.mark.parametrize(
    ('method', 'dataset', 'protocol', 'shots', 'training', 'names'),
    [
        ('dualcoop', 'coco', 'multi-label', 16, (50, 32, 2e-3), 'data set: coco2014'),
        ('dualcoop', 'voc2007', 'multi-label', 16, (50, 32, 1e-3), 'data set: voc2007'),
        ('tai_dpt', 'coco', 'multi-label', 16, (20, 512, 1e-4), '80 names of the config'),
        ('tai_dpt', 'voc2007', 'multi-label', 16, (20, 512, 1e-4), '20 names of the config'),
        ('dualcoop', 'coco-unseen', 'multi-label', 16, (50, 32, 2e-3), 'data set: coco2014, classes seen'),
        ('dualcoop', 'nus-wide-unseen', 'multi-label', 16, (50, 32, 1e-3), 'data set: nus-wide-tags, classes seen'),
        ('tai_dpt', 'nus-wide', 'multi-label', 16, (20, 512, 1e-3), '81 names of the config'),
        ('softcpt', 'general10', 'tasks', 16, (50, 32, 2e-3), None),
        ('softcpt', 'plant6', 'tasks', 16, (50, 32, 2e-3), None),
        ('mvlpt', 'coop11', 'tasks', 20, (200, 32, 2e-3), None),
        ('mvlpt', 'elevater20', 'tasks', 20, (200, 32, 2e-3), None),
        ('mvlpt', 'elevater-voc2007', 'few-shot', 5, (200, 32, 2e-3), 'data set: elevater-voc2007'),
        ('mvlpt', 'elevater-gtsrb', 'few-shot', 5, (200, 32, 2e-3), 'data set: elevater-gtsrb'),
        ('svl_adapter', 'eurosat', 'few-shot', 16, (50, 32, 1e-3), 'data set: eurosat'),
    ],
)
def test_sets_with_configs_of_their_own(method, dataset, protocol, shots, training, names):
    (cell,) = plan(CONFIGS, [method], [dataset], [protocol], [shots], [1])
    told = plans.tell(cell, CONFIGS)
    found = told['training']
    assert told['published'] == 'published' and names in (None, told['class_names'])
    assert (found['length'], found['batch'], found['rates']['all']) == training and found['unit'] == 'epochs'


@pytest.mark.parametrize(
    ('method', 'dataset', 'switches'),
    [
        (
            'dualcoop',
            'coco-unseen',
            {
                'model.backbone.arch': 'RN50',
                'model.text_prompt.num_contexts': 64,
                'model.text_prompt.class_specific': False,
                'model.loss.weight': 0.01,
                'model.loss.num_classes': 100,
                'train_dataloader.dataset.pipeline.1.transforms.0.size': [224, 224],
            },
        ),
        ('tai_dpt', 'nus-wide', {'model.text_prompt.spatial_scales': [50, 4]}),
        (
            'softcpt',
            'plant6',
            {'model.loss.type': 'vlm_dense.SoftCPTLoss', 'optim_wrapper.times': 4, 'param_scheduler.0.times': 4},
        ),
        ('mvlpt', 'elevater20', {'model.loss.others': 'kept', 'model.text_prompt.project_dim': 128}),
    ],
)
def test_switches_of_sets_with_configs_of_their_own(method, dataset, switches):
    protocol = 'multi-label' if method in ('dualcoop', 'tai_dpt') else 'tasks'
    (cell,) = plan(CONFIGS, [method], [dataset], [protocol], [5], [1])
    assert {key: at(cell.train, key) for key in switches} == switches
    assert 'rate' not in cell.train['model']['loss']


def test_tasks_have_as_many_classes_as_their_sets():
    (cell,) = plan(CONFIGS, ['mvlpt'], ['elevater20'], ['tasks'], [5], [1])
    datasets = cell.train['train_dataloader']['dataset']['datasets']
    assert len(datasets) == 20 and {each['shots'] for each in datasets} == {5}
    counts = load_config(str(CONFIGS / '_base_/datasets/elevater20_tasks.py')).tasks
    assert {f'elevater-{name}': count for name, count in counts.items()} == {
        name: entry['count'] for name, entry in SETS.items() if name.startswith('elevater-')
    }
    (cell,) = plan(CONFIGS, ['softcpt'], ['plant6'], ['tasks'], [1], [1])
    assert sum(cell.train['model']['text_prompt']['tasks'].values()) == 116


def test_a_set_of_several_labels_an_image_is_not_run_as_imagenet():
    for dataset in ('voc2007', 'elevater-voc2007', 'nus-wide'):
        with pytest.raises(ConfigError, match=f"'coop' is not in the methods with a config for {dataset}"):
            plan(CONFIGS, ['coop'], [dataset], ['few-shot'], [1], [1])


HIDDEN = [
    ("model['text_prompt'].pop('templates')", 'leaves templates to the default'),
    ("model['text_prompt'] = dict(type='vlm_dense.KgCoOpPrompt', template='a {}.')", 'leaves words to the default'),
    ("optim_wrapper['optimizer'].pop('lr')", 'neither how long the training is nor its rate'),
    ("param_scheduler = [dict(type='mmengine.OneCycleLR', eta_max=1.0, total_steps=3)]", 'cannot see the warm-up'),
    ("model['head'] = dict(type='vlm_dense.LPPlusPlus')", 'model.head leaves epochs to its default'),
]


@pytest.mark.parametrize(('change', 'message'), HIDDEN)
def test_what_a_plan_cannot_see_is_refused(change, message, tmp_path):
    from mmengine.config import Config

    base = Config.fromfile(CONFIGS / 'clip_lora/clip_lora_imagenet.py')
    base.pop('recipes')
    base.model.text_prompt = dict(type='vlm_dense.ZeroShotPrompt', templates=('a {}.',))
    space = {key: base[key] for key in ('model', 'optim_wrapper')}
    exec(change, {}, space)  # of the list above
    base.merge_from_dict({key: value for key, value in space.items() if key == 'param_scheduler'})
    base.dump(tmp_path / 'toy_imagenet.py')
    cells = plan(tmp_path, ['toy'], ['dtd'], ['few-shot'], [4], [1])
    with pytest.raises(ConfigError, match=message):
        plans.plans(cells, tmp_path)
