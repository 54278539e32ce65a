"""What papers change for other sets, shots and protocols reaches the cells of a comparison."""

from __future__ import annotations

import pytest
from config_texts import says

from vlm_dense.comparison.cells import plan
from vlm_dense.comparison.recipes import recipe_options
from vlm_dense.engine.configs.names import CONFIGS, list_configs
from vlm_dense.engine.runner.launch import load_config
from vlm_dense.errors import ConfigError

COOP = list(load_config(str(CONFIGS / 'coop_imagenet.py'))['targets'])


def cell(method, dataset, protocol='few-shot', shots=16, options=None):
    return plan(CONFIGS, [method], [dataset], [protocol], [shots], [1], options)[0]


def at(cfg, key):
    for part in key.split('.'):
        cfg = cfg[int(part) if isinstance(cfg, (list, tuple)) else part]
    return cfg


@pytest.mark.parametrize('shots, epochs', [(1, 50), (2, 100), (4, 100), (8, 200), (16, 200)])
@pytest.mark.parametrize('method', ['coop', 'prograd', 'upt'])
def test_epochs_by_shots(method, shots, epochs):
    train = cell(method, 'ucf101', shots=shots).train
    assert at(train, 'train_cfg.max_epochs') == epochs
    assert [at(train, f'param_scheduler.1.{name}') for name in ('begin', 'T_max', 'end')] == [1, epochs, epochs]
    assert at(train, 'param_scheduler.0.end') == 2
    assert at(cell(method, 'imagenet', shots=shots).train, 'train_cfg.max_epochs') == 50


EXPECTED = [
    ('upt', 'caltech101', 'base-to-new', 16, {'train_cfg.max_epochs': 10}),
    ('prograd', 'dtd', 'few-shot', 8, {'model.text_prompt.strength': 0.8}),
    ('prograd', 'dtd', 'few-shot', 4, {'model.text_prompt.strength': 1.0}),
    (
        'taskres',
        'oxford_flowers',
        'few-shot',
        4,
        {
            'optim_wrapper.optimizer.lr': 2e-3,
            'param_scheduler.0.factor': 1e-5 / 2e-3,
            'train_cfg.max_epochs': 100,
            'model.text_prompt.scale': 1.0,
        },
    ),
    ('prograd', 'oxford_pets', 'few-shot', 4, {'model.text_prompt.template': 'a type of pet, a photo of a {}.'}),
    ('prograd', 'ucf101', 'few-shot', 4, {'model.text_prompt.template': 'a photo of a person doing {}.'}),
    ('kgcoop', 'dtd', 'base-to-new', 16, {'model.text_prompt.template': 'a photo of a {}, a type of texture.'}),
    ('kgcoop', 'food101', 'base-to-new', 16, {'model.text_prompt.template': 'a photo of {}, a type of food.'}),
    ('taskres', 'dtd', 'few-shot', 16, {'train_cfg.max_epochs': 200, 'model.text_prompt.scale': 0.5}),
    ('taskres', 'imagenet', 'few-shot', 1, {'train_cfg.max_epochs': 100, 'optim_wrapper.optimizer.lr': 2e-4}),
    ('clip_lora', 'dtd', 'few-shot', 4, {'train_cfg.max_iters': 2000, 'param_scheduler.0.T_max': 2000}),
    ('clip_lora', 'imagenet', 'few-shot', 16, {'train_cfg.max_iters': 8000}),
    (
        'promptsrc',
        'food101',
        'few-shot',
        4,
        {'train_cfg.max_epochs': 50, 'default_hooks.average.mean': 30, 'default_hooks.average.std': 30},
    ),
    ('promptsrc', 'eurosat', 'few-shot', 4, {'default_hooks.average.mean': 45, 'default_hooks.average.std': 5}),
    ('promptsrc', 'eurosat', 'base-to-new', 16, {'train_cfg.max_epochs': 20, 'default_hooks.average.mean': 15}),
    (
        'promptsrc',
        'imagenet',
        'transfer',
        16,
        {'train_cfg.max_epochs': 20, 'model.text_prompt.visual_depth': 3, 'default_hooks.average.std': 10},
    ),
    (
        'maple',
        'imagenet',
        'domain-generalisation',
        16,
        {'train_cfg.max_epochs': 2, 'model.text_prompt.depth': 3, 'optim_wrapper.optimizer.lr': 0.0026},
    ),
    ('maple', 'dtd', 'base-to-new', 16, {'train_cfg.max_epochs': 5, 'model.text_prompt.depth': 9}),
    (
        'subpt',
        'imagenet',
        'few-shot',
        4,
        {'train_cfg.max_epochs': 80, 'default_hooks.subspace.early': 30, 'param_scheduler.3.T_max': 50},
    ),
    (
        'subpt',
        'dtd',
        'few-shot',
        1,
        {'train_cfg.max_epochs': 60, 'default_hooks.subspace.rank': 5, 'param_scheduler.2.begin': 10},
    ),
    ('subpt', 'caltech101', 'few-shot', 16, {'train_cfg.max_epochs': 250, 'param_scheduler.3.end': 250}),
    ('tip_adapter_f', 'eurosat', 'few-shot', 4, {'train_cfg.max_epochs': 100, 'model.head.alpha': 2.0}),
    ('tip_adapter_f', 'dtd', 'few-shot', 4, {'train_cfg.max_epochs': 20, 'model.head.search_scale': (13, 13)}),
    (
        'ape_t',
        'food101',
        'few-shot',
        2,
        {'optim_wrapper.optimizer.eps': 1e-2, 'model.head.channels': 900, 'train_cfg.max_epochs': 30},
    ),
    ('ape_t', 'eurosat', 'few-shot', 4, {'train_cfg.max_epochs': 200, 'param_scheduler.0.T_max': 200}),
    (
        'tcp',
        'dtd',
        'base-to-new',
        16,
        {
            'train_cfg.max_epochs': 50,
            'model.text_prompt.template': 'a photo of a {}, a type of texture.',
            'model.text_prompt.prompt_template': 'X X X X {} texture.',
        },
    ),
    ('tcp', 'sun397', 'base-to-new', 16, {'train_cfg.max_epochs': 25}),
]


def test_subpt_is_one_method_on_all_sets():
    for dataset in COOP + ['imagenet']:
        prompt = cell('subpt', dataset).train['model']['text_prompt']
        assert (len(prompt['novel_names']), prompt['novel_names'][0]) == (100, 'pickup truck')
        assert (prompt['template'], prompt['weight']) == ('imagenet80', 1.0)


@pytest.mark.parametrize('method, dataset, protocol, shots, values', EXPECTED)
def test_settings_of_the_papers(method, dataset, protocol, shots, values):
    train = cell(method, dataset, protocol, shots).train
    assert {key: at(train, key) for key in values} == values


def test_settings_of_what_is_not_trained():
    head = at(cell('ape', 'fgvc_aircraft').tests['test'], 'model.head')
    assert (head['channels'], head['weights'], head['search_step']) == (800, (0.1, 0.9), (200, 20, 20))
    search = 'default_hooks.prepare.data.search.dataset.dataset.shots'
    for method in ('ape', 'tip_adapter', 'gda_clip'):
        assert at(cell(method, 'dtd', shots=4).tests['test'], search) is None
        assert at(cell(method, 'imagenet', shots=4).tests['test'], search) == 4


def test_a_test_set_brings_its_own_settings():
    tests = cell('tda', 'imagenet', 'transfer').tests
    assert at(tests['eurosat'], 'model.test_time.positive.alpha') == 4.0
    assert at(tests['caltech101'], 'model.text_prompt.templates') == 'imagenet7'
    assert at(tests['source'], 'model.test_time.positive.beta') == 5.0
    views = 'test_dataloader.dataset.pipeline.1.num_views'
    assert at(tests['eurosat'], views) == 1
    domains = cell('tda', 'imagenet', 'domain-generalisation').tests
    assert at(domains['imagenet-sketch'], views) == 64
    assert at(domains['imagenet-sketch'], 'model.test_time.positive.alpha') == 2.363
    for protocol, dataset in (('transfer', 'imagenet'), ('few-shot', 'dtd')):
        for test in cell('zero_tta', dataset, protocol).tests.values():
            assert at(test, 'model.text_prompt.templates') == ('a photo of a {}.',)
    learned = cell('tcp', 'imagenet', 'transfer').tests['stanford_cars']
    assert at(learned, 'model.text_prompt.prompt_template') == 'X X X X {}, a type of car'


def test_options_of_the_command_line_come_last():
    options = {'train_cfg.max_epochs': 3, 'model.text_prompt.num_contexts': 4}
    found = cell('coop', 'dtd', options=options)
    assert at(found.train, 'train_cfg.max_epochs') == 3 and at(found.train, 'model.text_prompt.num_contexts') == 4
    tests = cell('tda', 'imagenet', 'transfer', options={'model.test_time.positive.alpha': 9.0}).tests
    assert {at(test, 'model.test_time.positive.alpha') for test in tests.values()} == {9.0}
    listed = cell('coop', 'dtd', options={'model.text_prompt.words': ['a', 'b']}).train
    assert at(listed, 'model.text_prompt.words') == ['a', 'b']


WITH_RECIPES = [
    path.stem.removesuffix('_imagenet')
    for path in list_configs(CONFIGS)
    if path.stem.endswith('_imagenet') and says(path, '^recipes = ')
]


@pytest.mark.parametrize('method', WITH_RECIPES)
def test_every_recipe_fits_its_config(method):
    recipes = load_config(str(next(p for p in list_configs(CONFIGS) if p.stem == f'{method}_imagenet')))['recipes']
    assert recipes
    for recipe in recipes.values():
        sets = recipe.get('sets', ['imagenet'])
        for dataset in COOP if sets == 'others' else sets:
            for protocol in recipe.get('protocols', ['few-shot']):
                for shots in recipe.get('shots', [16]):
                    assert cell(method, dataset, protocol, shots)


def test_a_misspelt_recipe_is_told():
    with pytest.raises(ConfigError, match="'shot' is not in the keys of recipe 'few'.*Did you mean 'shots'"):
        recipe_options(dict(recipes=dict(few=dict(shot=[1], length=3))), 'dtd', 'few-shot', 1)
