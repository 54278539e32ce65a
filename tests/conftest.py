"""Options and surroundings of all tests."""

from __future__ import annotations

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


SLOW = {
    'test_compilation',
    'test_compile',
    'test_demo_clients',
    'test_fsdp',
    'test_killed_runs',
    'test_killed_task_runs',
    'test_killed_unlabelled_runs',
    'test_kills',
    'test_ops_sweep',
    'test_processes',
    'test_sharding',
    'test_subpt_runs',
}
"""Files of whole trainings, several processes and kills: ``pytest -m slow`` runs them, ``-m 'not slow'`` does not."""


def pytest_collection_modifyitems(items):
    """Mark the tests of the slow files."""
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)


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
def _scope_of_other_tests():
    """A run sets mmengine's default scope for the whole process."""
    from mmengine.registry import DefaultScope

    before = DefaultScope._instance_dict.copy()
    yield
    DefaultScope._instance_dict.clear()
    DefaultScope._instance_dict.update(before)


def pytest_terminal_summary(terminalreporter):
    """Tell how many combinations of the matrix train and how many are refused."""
    told = [value for r in terminalreporter.getreports('passed') for key, value in r.user_properties if key == 'matrix']
    if told:
        refused = [text for text in told if text.startswith('refused')]
        terminalreporter.write_line(
            f'matrix: {len(told) - len(refused)} combinations train, {len(refused)} are refused'
        )
        for text in sorted(set(refused)):
            terminalreporter.write_line(f'  {refused.count(text)} {text}')
