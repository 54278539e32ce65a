"""Options and surroundings of all tests."""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path

import pytest


def pytest_addoption(parser):
    parser.addoption(
        '--parity-dir',
        type=Path,
        default=Path(__file__).parent / 'data' / 'parity',
        help='directory of <method>[-<case>].npz files with the official numbers',
    )
    parser.addoption(
        '--parity-report',
        type=Path,
        metavar='FILE',
        help='write the largest error of each case of official numbers, relative to the largest entry of its array',
    )


LONG = {
    'test_compilation',
    'test_compile',
    'test_demo_clients',
    'test_fsdp',
    'test_killed_runs',
    'test_killed_task_runs',
    'test_killed_unlabelled_runs',
    'test_kills',
    'test_notebook',
    'test_open_models',
    'test_ops_sweep',
    'test_processes',
    'test_sharding',
    'test_subpt_runs',
}
"""Files of several processes, of kills and of whole trainings. They are slow as well."""

SLOW = {
    'test_adapters',
    'test_ablate',
    'test_ade20k',
    'test_any_backbone',
    'test_bad_inputs',
    'test_bases_by_name',
    'test_captions',
    'test_checkpoint',
    'test_cli',
    'test_coco',
    'test_coco_run',
    'test_compare',
    'test_compare_dense',
    'test_compare_protocols',
    'test_compiled_figures',
    'test_clipself_distillation',
    'test_config_keys',
    'test_config_values',
    'test_confusion',
    'test_configs',
    'test_coop_training',
    'test_demo',
    'test_dense_methods',
    'test_det_inferencer',
    'test_diff',
    'test_distillation',
    'test_export',
    'test_feature_cache',
    'test_few_shot',
    'test_files',
    'test_forked',
    'test_found',
    'test_frozen_features',
    'test_hooks',
    'test_hostile_files',
    'test_hub_and_docker',
    'test_image_set_run',
    'test_image_sets',
    'test_image_tower',
    'test_lazy_configs',
    'test_loading',
    'test_lora_updates',
    'test_losses',
    'test_lposs_segmentor',
    'test_maskclip_plus_segmentor',
    'test_maskclip_run',
    'test_maskclip_segmentor',
    'test_matrix',
    'test_new_method',
    'test_outputs',
    'test_own',
    'test_package',
    'test_patch_captions',
    'test_plans',
    'test_prepare',
    'test_pretraining',
    'test_processors',
    'test_properties',
    'test_pseudo_label',
    'test_pseudo_label_hook',
    'test_published_settings',
    'test_published_splits',
    'test_readme',
    'test_recipes',
    'test_refinements',
    'test_saving',
    'test_second_prompts',
    'test_seeding',
    'test_seg_inferencer',
    'test_segment',
    'test_setup',
    'test_shapes',
    'test_shapes_run',
    'test_silent',
    'test_site_build',
    'test_stand_in',
    'test_stock_mmdet',
    'test_stock_programs',
    'test_strange_files',
    'test_strip_loss',
    'test_tasks',
    'test_tda_stream',
    'test_text_guided_neck',
    'test_text_side',
    'test_train_and_test',
    'test_trained',
    'test_upl_prompt',
    'test_verify',
    'test_words',
    'test_zoo',
}
"""Files that take more than some seconds, nearly all since they run whole programs; the folder parity is slow too."""


def pytest_collection_modifyitems(items):
    """Mark the tests of the slow files and of the long ones; what is long is slow as well."""
    for item in items:
        if item.path.stem in LONG:
            item.add_marker(pytest.mark.long)
        long = item.get_closest_marker('long') is not None
        if long or item.path.stem in SLOW or item.path.parent.name == 'parity':
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish():
    """What imports have made is not looked through again: mmengine collects garbage at every data set (0.4 s)."""
    gc.collect()
    gc.freeze()


def pytest_generate_tests(metafunc):
    """A test that takes ``<method>_case`` runs once for every case of that method in ``--parity-dir``."""
    for name in metafunc.fixturenames:
        if name.endswith('_case'):
            method = name.removesuffix('_case')
            folder = metafunc.config.getoption('--parity-dir')
            paths = sorted(p for p in folder.glob('*.npz') if p.stem.split('-')[0] == method)
            metafunc.parametrize(name, paths, ids=[p.stem for p in paths])


@pytest.fixture(autouse=True, scope='session')
def _one_thread():
    """The same rounding on every machine and in every fixture; also quickest for small tensors on a busy one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope='session')
def _configs_without_layout():
    """No config is laid out for readers: yapf would take most of the time of the tests that run programs."""
    from yapf.yapflib import yapf_api

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yapf_api, 'FormatCode', lambda text, **options: (text, True))
        yield


@pytest.fixture(autouse=True)
def _seed():
    import torch

    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _streams_of_other_tests():
    """A handler of mmengine keeps the stream of the test that made it, which is closed when that test is over."""
    from mmengine.logging import MMLogger

    for logger in MMLogger._instance_dict.values():
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stdout  # setStream would flush the closed one


@pytest.fixture(autouse=True, scope='module')
def _globals_of_other_tests():
    """A run sets mmengine's default scope for the whole process, and its visualizer is found again by its name."""
    from mmengine.registry import DefaultScope
    from mmengine.visualization import Visualizer

    def forget():
        classes = [DefaultScope, Visualizer]
        while classes:
            classes += (cls := classes.pop()).__subclasses__()
            cls._instance_dict.clear()

    forget()  # a fixture of the whole session may have left some as well
    yield
    forget()


@pytest.fixture(scope='module')
def mmdet_scope():
    """Names of mmdet resolve without a prefix in a module."""
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')


def _report_parity(terminalreporter, path: Path) -> None:
    """Write a table of the largest error of each case, the largest first."""
    reports = terminalreporter.getreports('passed') + terminalreporter.getreports('failed')
    worst = {}
    for name, error, key in (value for r in reports for kind, value in r.user_properties if kind == 'parity'):
        worst[name] = max(worst.get(name, (-1.0, '')), (error, key))
    rows = sorted(worst.items(), key=lambda row: row[1], reverse=True)
    lines = [f'| {name} | {error:.1e} | {key} |' for name, (error, key) in rows]
    path.write_text('\n'.join(['| Case | Largest relative error | in |', '|---|---|---|', *lines, '']))
    terminalreporter.write_line(f'parity: the largest errors of {len(rows)} cases are in {path}')


def pytest_terminal_summary(terminalreporter):
    """Tell how many combinations of the matrix train and how many are refused."""
    if path := terminalreporter.config.getoption('--parity-report'):
        _report_parity(terminalreporter, path)
    told = [value for r in terminalreporter.getreports('passed') for key, value in r.user_properties if key == 'matrix']
    if told:
        refused = [text for text in told if text.startswith('refused')]
        terminalreporter.write_line(
            f'matrix: {len(told) - len(refused)} combinations train, {len(refused)} are refused'
        )
        for text in sorted(set(refused)):
            terminalreporter.write_line(f'  {refused.count(text)} {text}')
