"""The command ``vlm-dense``: the programs of ``tools/`` under one name, from a clone or an installed package."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import vlm_dense
from vlm_dense.engine.configs.names import TOOLS
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError, unknown_name

SHORT = {'info': 'model_info'}
"""Names of the command for files of another name."""

USAGE = """usage: vlm-dense PROGRAM [arguments]

{programs}

vlm-dense PROGRAM --help tells the arguments of one; vlm-dense --version the version. The programs are the files in
{tools}."""


def programs() -> dict[str, Path]:
    """Name in the command line -> file, in alphabetical order."""
    names = {file: name for name, file in SHORT.items()}
    found = {names.get(path.stem, path.stem.replace('_', '-')): path for path in TOOLS.glob('*.py')}
    return dict(sorted(found.items()))


def summary(path: Path) -> str:
    """What a program does, by the first line of its docstring; the program is not imported."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or ''
    return text.partition('\n')[0].partition(': ')[0].rstrip('.')


def main(argv: Sequence[str] | None = None) -> None:
    """Run a program.

    Args:
        argv: Its name and its arguments; those of this process if left out.

    Raises:
        SystemExit: with the status of the program; 2 for an unknown one.
    """
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ['--help']
    if name in ('-h', '--help'):
        width = max(map(len, programs()))
        lines = [f'  {each:{width}}  {summary(path)}' for each, path in programs().items()]
        print(USAGE.format(programs='\n'.join(lines), tools=TOOLS))
    elif name == '--version':
        print(f'vlm-dense {vlm_dense.__version__}')
    else:
        with user_errors():
            path = programs().get(name)
            if path is None:
                raise ConfigError(unknown_name(name, 'programs of vlm-dense', programs()))
            run(path, f'vlm-dense {name}', rest)


def run(path: Path, name: str, arguments: Sequence[str]) -> None:
    """Run a file as ``python path arguments`` does, in this process.

    Args:
        name: Of the program, in its messages.
    """
    sys.argv = [name, *arguments]
    sys.path.insert(0, str(path.parent))
    module = sys.modules['__main__'] = ModuleType('__main__')
    module.__file__ = str(path)  # processes that this one starts import it from there
    exec(compile(path.read_bytes(), path, 'exec'), module.__dict__)
