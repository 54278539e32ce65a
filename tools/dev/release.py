"""Build and check a release: python tools/dev/release.py [--cut] [--out dist] [--extras mm] [--python 3.11 3.13]

In this order; the first step that fails ends the program with status 1:

0. With --cut: the section "Unreleased" of CHANGELOG.md becomes that of the version, with the date of the day.
1. The version of ``vlm_dense/__init__.py`` is that of CITATION.cff, README and the first section of CHANGELOG.md.
2. ``python -m build`` makes wheel and source distribution, and ``twine check --strict`` checks their metadata.
3. Each of the two is installed in a fresh virtual environment of every Python from 3.10 to 3.13 that is on the PATH
   and runs, outside of the clone, the first commands of a user: version, a scene segmented by names and by the weights
   of the package, two iterations of a training. Versions without an interpreter are named.
4. The section of CHANGELOG.md is written to OUT/RELEASE_NOTES.md.

Needs the extra ``dev``; environments are filled by pip, several hundred MB each.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = ('3.10', '3.11', '3.12', '3.13')
SCENE = 'scene.png'
DRAW = f"""
import cv2
from vlm_dense.datasets import DrawScene, ShapesDataset
cv2.imwrite({SCENE!r}, ShapesDataset(6, 'test', size=256, pipeline=[DrawScene()])[5]['img'])
"""
"""Program that draws the scene."""
SMALL = ('train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'val_dataloader.dataset.num_scenes=2')
"""Options of the training: two iterations, two scenes."""
_VERSION = r"^__version__ = '(.+)'$"


class ReleaseError(Exception):
    """What must be changed before the release."""


def cut(root: Path = ROOT, day: datetime.date | None = None) -> None:
    """Give the changes that are not released yet the version, ``## 1.2.0 (2026-12-01)``.

    Raises:
        ReleaseError: CHANGELOG.md does not begin with the section "Unreleased".
    """
    path = root / 'CHANGELOG.md'
    before, heading, after = path.read_text(encoding='utf-8').partition('## Unreleased\n')
    if not heading or '## ' in before:
        raise ReleaseError(f'{path} does not begin with the section "Unreleased". Leave out --cut, or write one.')
    version = _found(_VERSION, root / 'vlm_dense' / '__init__.py')
    path.write_text(f'{before}## {version} ({day or datetime.date.today()})\n{after}', encoding='utf-8')


def version_of(root: Path = ROOT) -> str:
    """The version, if all files that name it agree.

    Raises:
        ReleaseError: they do not, or CHANGELOG.md does not begin with a section of this version.
    """
    version = _found(_VERSION, root / 'vlm_dense' / '__init__.py')
    others = {
        'CITATION.cff': _found(r'^version: (.+)$', root / 'CITATION.cff'),
        'README.md': _found(r'vlm_dense-(.+?)-py3-none-any\.whl', root / 'README.md'),
        'CHANGELOG.md (first section)': _found(r'^## ([\w.]+)', root / 'CHANGELOG.md'),
    }
    wrong = [f'{name} has {found}' for name, found in others.items() if found != version]
    if wrong:
        raise ReleaseError(
            f'vlm_dense/__init__.py has version {version}, but {"; ".join(wrong)}. Make them equal; --cut does it for '
            'the section "Unreleased".'
        )
    return version


def _found(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text(encoding='utf-8'), re.MULTILINE)
    return match[1] if match else 'none'


def notes_of(version: str, changelog: str) -> str:
    """The text of a version's sections in the changelog, without their headings.

    Raises:
        ReleaseError: there is no such section, or it is empty.
    """
    sections = re.split(r'^## ', changelog, flags=re.MULTILINE)[1:]
    own = [section.partition('\n')[2].strip() for section in sections if re.match(r'[\w.]+', section)[0] == version]
    notes = '\n\n'.join(text for text in own if text)
    if not notes:
        raise ReleaseError(f'CHANGELOG.md has no text for {version}.')
    return f'{notes}\n'


def interpreters(wanted: Sequence[str] = VERSIONS) -> dict[str, str | None]:
    """Python of each supported version; ``None`` if it is not wanted, or the PATH has none that makes environments."""
    return {version: _python(version) if version in wanted else None for version in VERSIONS}


def _python(version: str) -> str | None:
    found = shutil.which(f'python{version}')
    # a shim of pyenv is there for versions that are not chosen, and Debian's Python may have no ensurepip
    command = [found, '-c', 'import ensurepip, sys; print(*sys.version_info[:2], sep=".")']
    run = found and subprocess.run(command, capture_output=True, text=True)
    return found if run and not run.returncode and run.stdout.strip() == version else None


def build(out: Path) -> list[Path]:
    """Wheel and source distribution, with metadata that twine accepts."""
    _run([sys.executable, '-m', 'build', '--outdir', out, ROOT], ROOT)
    files = sorted(out.glob('vlm_dense-*'))
    _run([sys.executable, '-m', 'twine', 'check', '--strict', *files], ROOT)
    return files


def check_install(python: str, file: Path, extras: str) -> None:
    """Install a distribution in a fresh environment and run the first commands there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _run([python, '-m', 'venv', folder / 'venv'], folder)
        programs = folder / 'venv' / ('Scripts' if os.name == 'nt' else 'bin')
        _run([programs / 'python', '-m', 'pip', 'install', '--quiet', f'{file.absolute()}[{extras}]'], folder)
        command = programs / 'vlm-dense'
        _run([command, '--version'], folder)
        _run([programs / 'python', '-c', DRAW], folder)
        _run([command, 'segment', SCENE, '--classes', 'empty background', 'circle', 'star', '--out', 'masks'], folder)
        _run([command, 'segment', SCENE, '--model', 'denseclip_shapes', '--out', 'trained'], folder)
        _run([command, 'train', 'denseclip_shapes', '-q', '--work-dir', 'run', '--cfg-options', *SMALL], folder)


def _run(command: Sequence[str | Path], cwd: Path) -> None:
    words = [str(word) for word in command]
    print('$', ' '.join(words), flush=True)
    environment = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
    status = subprocess.run(words, cwd=cwd, env=environment).returncode
    if status:
        raise ReleaseError(f'`{" ".join(words)}` ended with status {status}.')


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--cut', action='store_true', help='give the section "Unreleased" the version and the day')
    parser.add_argument('--out', type=Path, default=ROOT / 'dist', help='a new folder (default: dist)')
    parser.add_argument('--extras', default='mm', help='extras that are installed (default: mm)')
    parser.add_argument(
        '--python', nargs='+', choices=VERSIONS, default=VERSIONS, help='versions to try (default: all)'
    )
    args = parser.parse_args(argv)
    try:
        if args.cut:
            cut()
        version = version_of()
        notes = notes_of(version, (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'))
        if args.out.exists() and any(args.out.iterdir()):
            raise ReleaseError(f'{args.out} is not empty. Remove it, or give another --out.')
        files = build(args.out)
        found = interpreters(args.python)
        for number, python in found.items():
            for file in files if python else ():
                check_install(python, file, args.extras)
                print(f'Python {number}: {file.name} works.', flush=True)
        absent = [number for number, python in found.items() if python is None]
        if absent:
            print(f'Not tried, as there is no interpreter or --python leaves it out: Python {", ".join(absent)}.')
        target = args.out / 'RELEASE_NOTES.md'
        target.write_text(f'# vlm_dense {version}\n\n{notes}', encoding='utf-8')
        print(f'Release notes: {target}.')
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
