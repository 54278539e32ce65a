"""The command ``vlm-dense``: each module of this folder that ``PROGRAMS`` names is a program.

It has ``parser()``, its arguments, and ``main(argv)``. Arguments are read before torch and the OpenMMLab libraries are
imported, which takes seconds: modules import these inside of functions only. ``tools/NAME.py`` runs the same program.
"""

from __future__ import annotations

import ast
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import NoReturn

import vlm_dense
from vlm_dense.cli.arguments import PROGRAMS
from vlm_dense.engine.messages import user_errors
from vlm_dense.errors import ConfigError, unknown_name

USAGE = """usage: vlm-dense PROGRAM [arguments]

{programs}

vlm-dense PROGRAM --help tells the arguments of one; vlm-dense --version the version.
vlm-dense --print-completion SHELL prints what bash, zsh and others read to complete programs, options and names."""


def summary(name: str) -> str:
    """Summary of a program, the first line of its docstring; the program is not imported."""
    source = Path(__file__).with_name(f'{PROGRAMS[name]}.py').read_text(encoding='utf-8')
    return (ast.get_docstring(ast.parse(source)) or '').partition('\n')[0].partition(': ')[0].rstrip('.')


def program(name: str) -> ModuleType:
    """The module of a program.

    Raises:
        ConfigError: there is none of that name; names the nearest.
    """
    if name not in PROGRAMS:
        raise ConfigError(unknown_name(name, 'programs of vlm-dense', PROGRAMS))
    return importlib.import_module(f'vlm_dense.cli.{PROGRAMS[name]}')


def run(name: str, argv: Sequence[str] | None = None) -> NoReturn:
    """Run a program and leave.

    Args:
        name: One of ``PROGRAMS``.
        argv: Its arguments; those of this process if left out.

    Raises:
        SystemExit: with what ``main`` of the program returns if that is a number, else 0; 2 after a mistake of the
            user.
    """
    try:
        with user_errors():
            status = program(name).main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more
        sys.exit(128 + signal.SIGPIPE)
    sys.exit(status if isinstance(status, int) else 0)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        argv: Name of a program and its arguments; those of this process if left out.

    Raises:
        SystemExit: as of :func:`run`.
    """
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ['--help']
    if name in ('-h', '--help'):
        width = max(map(len, PROGRAMS))
        print(USAGE.format(programs='\n'.join(f'  {each:{width}}  {summary(each)}' for each in PROGRAMS)))
    elif name == '--version':
        print(f'vlm-dense {vlm_dense.__version__}')
    elif name == '--print-completion':
        with user_errors():
            from vlm_dense.cli import completion

            known = {each: (summary(each), program(each).parser()) for each in PROGRAMS}
            print(completion.script(rest[0] if rest else 'bash', known))
    else:
        run(name, rest)
