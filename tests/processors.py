"""The tests as other processors run them: torch and its libraries are told to use older instructions.

    python tests/processors.py                                   # all settings, the whole suite
    python tests/processors.py --settings 1 3 -- -n 2 --dist loadfile -m 'not slow'
    python tests/processors.py -- tests/ops tests/methods

What comes after ``--`` goes to pytest. Every value of every variable is in one setting at least; a setting that the
processor does not have is left out and named. MKL follows its variable on processors of Intel; elsewhere all values
but COMPATIBLE mean its own choice, which is printed. Ends with status 1 if a test fails or pytest ends otherwise.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
VARIABLES = 'ATEN_CPU_CAPABILITY', 'ONEDNN_MAX_CPU_ISA', 'MKL_CBWR'
SETTINGS = [
    ('default', 'SSE41', 'COMPATIBLE'),
    ('avx2', 'AVX2', 'AVX2'),
    ('avx512', 'AVX512_CORE', 'AVX512'),
    ('default', 'AVX512_CORE', 'AVX2'),
    ('avx2', 'SSE41', 'AVX512'),
    ('avx512', 'AVX2', 'COMPATIBLE'),
]
PROBE = """
import torch
torch.ones(8, 8) @ torch.ones(8, 8)
torch.nn.functional.conv2d(torch.ones(16, 32, 32, 32), torch.ones(32, 32, 3, 3))
print('aten:' + torch.backends.cpu.get_cpu_capability())
"""


def processor() -> tuple[str, set[str]]:
    """Its name, and its flags as Linux gives them; none elsewhere."""
    info = Path('/proc/cpuinfo')
    text = info.read_text() if info.exists() else ''
    lines = dict(re.split(r'\s*:\s*', line, maxsplit=1) for line in text.splitlines() if ':' in line)
    return lines.get('model name', platform.machine()), set(lines.get('flags', '').split())


def absent(setting: tuple[str, ...], flags: set[str]) -> list[str]:
    """The instructions of a setting that a processor with ``flags`` does not have."""
    words = ' '.join(setting).lower()
    return [name for name, flag in (('avx512', 'avx512f'), ('avx2', 'avx2')) if name in words and flag not in flags]


def in_force(environment: dict[str, str]) -> str:
    """What the libraries say they use under ``environment``."""
    command = [sys.executable, '-c', PROBE]
    verbose = environment | dict(MKL_VERBOSE='1', ONEDNN_VERBOSE='1')
    said = subprocess.run(command, env=verbose, capture_output=True, text=True, check=True).stdout
    patterns = {'ATen': r'^aten:(\w+)', 'oneDNN': r'cpu,isa:(.+)', 'MKL': r'CNR:(\S+)'}
    found = {library: re.search(pattern, said, re.MULTILINE) for library, pattern in patterns.items()}
    return ', '.join(f'{library} {match[1] if match else "absent"}' for library, match in found.items())


def run(environment: dict[str, str], options: list[str]) -> tuple[str, bool]:
    """Run pytest; how many tests passed, failed and were skipped, which failed, and whether all is well."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, 'report.xml')
        command = [sys.executable, '-m', 'pytest', f'--junitxml={report}', *options]
        status = subprocess.run(command, cwd=ROOT, env=environment).returncode
        cases = list(ElementTree.parse(report).iter('testcase')) if report.exists() else []
    bad = [case for case in cases if case.find('failure') is not None or case.find('error') is not None]
    skipped = sum(case.find('skipped') is not None for case in cases)
    lines = [f'{len(cases) - len(bad) - skipped} passed, {len(bad)} failed, {skipped} skipped']
    lines += [f'  failed: {case.get("classname", "").replace(".", "/")}::{case.get("name")}' for case in bad]
    if status and not bad:
        lines.append(f'  pytest ended with status {status}')
    return '\n'.join(lines), status == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    numbers = range(1, len(SETTINGS) + 1)
    parser.add_argument('--settings', nargs='+', type=int, choices=numbers, default=list(numbers), metavar='N')
    parser.add_argument('--list', action='store_true', help='show the settings and what the libraries make of them')
    parser.add_argument('options', nargs='*', metavar='-- OPTIONS', help='options of pytest')
    args = parser.parse_args()
    name, flags = processor()
    summary, well, ran = [f'processor: {name}'], True, 0
    for number in args.settings:
        setting = dict(zip(VARIABLES, SETTINGS[number - 1], strict=True))
        title = f'{number}. ' + ' '.join(f'{key}={value}' for key, value in setting.items())
        if missing := absent(SETTINGS[number - 1], flags):
            summary.append(f'{title}\n  left out: this processor has no {" and no ".join(missing)}')
            continue
        environment = os.environ | setting
        title += f'\n  in force: {in_force(environment)}'
        print(f'\n{title}', flush=True)
        ran += 1
        if not args.list:
            start = time.monotonic()
            told, fine = run(environment, args.options)
            title += f'\n  {told}\n  {(time.monotonic() - start) / 60:.1f} min'
            well &= fine
        summary.append(title)
    print('\n' + '\n'.join(summary))
    return int(not well or not ran)


if __name__ == '__main__':
    sys.exit(main())
