"""The program that runs the tests as other processors do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import processors

PROGRAM = Path(processors.__file__)
TESTS = """
import os
import torch

def test_older(): assert torch.backends.cpu.get_cpu_capability() == 'DEFAULT' and os.environ['MKL_CBWR'] == 'COMPATIBLE'
def test_newer(): assert os.environ['ONEDNN_MAX_CPU_ISA'] == 'AVX2'
"""


def test_every_value_of_every_variable_is_in_a_setting():
    values = [set(column) for column in zip(*processors.SETTINGS, strict=True)]
    assert values == [
        {'default', 'avx2', 'avx512'},
        {'SSE41', 'AVX2', 'AVX512_CORE'},
        {'COMPATIBLE', 'AVX2', 'AVX512'},
    ]


def test_a_setting_that_the_processor_does_not_have_is_left_out():
    assert processors.absent(('default', 'SSE41', 'COMPATIBLE'), set()) == []
    assert processors.absent(('avx2', 'SSE41', 'COMPATIBLE'), {'sse4_1'}) == ['avx2']
    assert processors.absent(('avx2', 'AVX2', 'AVX2'), {'avx2'}) == []
    assert processors.absent(('avx2', 'SSE41', 'AVX512'), {'avx2'}) == ['avx512']


def test_tests_run_under_a_setting_and_failures_are_named(tmp_path):
    (tmp_path / 'test_settings.py').write_text(TESTS)
    command = [sys.executable, str(PROGRAM), '--settings', '1', '--', f'--rootdir={tmp_path}', '-c', '/dev/null']
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 1 and '1 passed, 1 failed, 0 skipped' in done.stdout
    assert 'failed: test_settings::test_newer' in done.stdout and 'in force: ATen DEFAULT' in done.stdout
    done = subprocess.run([*command, str(tmp_path), '-k', 'older'], capture_output=True, text=True)
    assert done.returncode == 0 and '1 passed, 0 failed, 0 skipped' in done.stdout
    assert subprocess.run([*command, str(tmp_path / 'none')], capture_output=True).returncode == 1
