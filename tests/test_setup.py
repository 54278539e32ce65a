"""Importing vlm_dense, or looking one of its names up, changes nothing in the process; one call does."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

ENVIRONMENT = {**os.environ, 'OMP_NUM_THREADS': '1'}

STATE = """
import logging, os, sys, warnings
import vlm_dense  # mmdet.models cannot be imported before
import mmdet.apis, mmseg.datasets, mmseg.models
import mmengine.registry as root
from mmengine.registry import Registry
from mmengine.runner import CheckpointLoader

def registries():
    found = {}
    def add(registry):
        if registry.scope == 'vlm_dense':
            return
        found[registry.scope, registry.name] = dict(registry._module_dict)
        for child in registry._children.values():
            add(child)
    for registry in vars(root).values():
        if isinstance(registry, Registry):
            registry.import_from_location()
            for child in registry._children.values():
                child.import_from_location()
            add(registry)
    return found

def state():
    return dict(
        loaders=dict(CheckpointLoader._schemes), disabled=logging.root.manager.disable, level=logging.root.level,
        handlers=list(logging.root.handlers), filters=list(warnings.filters), shown=warnings.showwarning,
        registries=registries(), out=sys.stdout, err=sys.stderr, hook=sys.excepthook)

def differences(before, after):
    return [key for key in before if before[key] != after[key]]
"""

LOOK_UP = """
import vlm_dense.engine.registry as engine, vlm_dense.registry as ours
names = 0
for registry in (*vars(ours).values(), *vars(engine).values()):
    if isinstance(registry, ours.Registry):
        registry.import_from_location()
        for name in list(registry._module_dict):
            assert registry.get(name) is not None
            names += 1
assert names > 80, names
"""


def run(code: str) -> str:
    """What a new interpreter prints, on both streams."""
    done = subprocess.run(
        [sys.executable, '-c', textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout[-3000:]
    return done.stdout


def test_importing_vlm_dense_prints_nothing():
    assert run('import vlm_dense, vlm_dense.errors, vlm_dense.libraries') == ''


def test_looking_every_name_up_changes_nothing_of_others():
    found = run(f"""
{STATE}
logging.disable(logging.ERROR)
before = state()
{LOOK_UP}
print('differs:', differences(before, state()))
""")
    assert 'differs: []' in found


def test_setup_prints_nothing_changes_nothing_of_others_and_checkpoints_are_read_without_running_code(tmp_path):
    """All in one process: importing the libraries takes seconds."""
    found = run(f"""
        import logging, os, sys, warnings
        import mmengine.registry, mmcv
        logging.disable(logging.INFO)
        before = logging.root.manager.disable, list(warnings.filters), sys.stdout
        import vlm_dense
        vlm_dense.setup()
        vlm_dense.setup()
        assert (logging.root.manager.disable, list(warnings.filters), sys.stdout) == before
        from mmengine.logging import MMLogger
        MMLogger.get_current_instance().warning('is heard')

        import torch
        from mmengine.runner import CheckpointLoader
        class Evil:
            def __reduce__(self):
                return os.mkdir, ({str(tmp_path / 'made')!r},)
        torch.save(dict(state_dict=Evil()), {str(tmp_path / 'evil.pth')!r})
        try:
            CheckpointLoader.load_checkpoint({str(tmp_path / 'evil.pth')!r})
        except vlm_dense.errors.CheckpointError as error:
            print('refused')
        """)
    assert [line.rpartition(' - ')[2] for line in found.splitlines()] == ['is heard', 'refused']
    assert not (tmp_path / 'made').exists()


def test_names_are_found_where_the_system_has_no_resource():
    run("""
import sys
import mmengine.registry, mmengine.runner, open_clip, torch, torchvision  # on Windows, they know what to do
sys.modules['resource'] = None  # as on Windows
from mmengine.registry import HOOKS
assert HOOKS.get('vlm_dense.CostHook').__name__ == 'CostHook'
from vlm_dense.classification.hooks import _peak_memory
assert _peak_memory() is None
""")
