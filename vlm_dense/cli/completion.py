"""Completion of ``vlm-dense`` in a shell, by shtab."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from vlm_dense.cli.arguments import ConfigFile
from vlm_dense.errors import ConfigError, MissingLibraryError, unknown_name
from vlm_dense.libraries import how_to_install

_CONFIGS = '_vlm_dense_configs'
_FUNCTIONS = dict(
    bash=f'{_CONFIGS}() {{\n  compgen -W "$(vlm-dense models --names)" -- "$1"\n  compgen -f -- "$1"\n}}',
    zsh=f'{_CONFIGS}() {{\n  compadd -- $(vlm-dense models --names)\n  _files\n}}',
)
"""Completions of a config: names of models, and files. Other shells complete files."""
_FILES, _FOLDERS = ('FILE', 'CHECKPOINT'), ('DIR',)
"""Placeholders of options that take such."""
_POSITIONAL_FILES = ('checkpoint', 'image', 'images', 'out')


def script(shell: str, programs: Mapping[str, tuple[str, argparse.ArgumentParser]]) -> str:
    """Shell script that completes programs, their options, files and names of models.

    Args:
        shell: bash, zsh, or another that shtab writes for.
        programs: Name -> what it does, and its arguments.

    Raises:
        MissingLibraryError: shtab is not installed.
        ConfigError: an unknown shell.
    """
    try:
        import shtab
    except ImportError:
        raise MissingLibraryError(f'Completion needs shtab. {how_to_install("completion")}') from None
    if shell not in shtab.SUPPORTED_SHELLS:
        raise ConfigError(unknown_name(shell, 'shells that shtab writes for', shtab.SUPPORTED_SHELLS))
    parser = argparse.ArgumentParser('vlm-dense')
    parser.add_argument('--version', action='store_true', help='print the version')
    subparsers = parser.add_subparsers()
    for name, (text, arguments) in programs.items():
        for action in arguments._actions:
            if isinstance(action, ConfigFile):
                action.complete = {**shtab.FILE, **dict.fromkeys(_FUNCTIONS, _CONFIGS)}
            elif action.metavar in _FOLDERS:
                action.complete = shtab.DIRECTORY
            elif action.metavar in _FILES or (not action.option_strings and action.dest in _POSITIONAL_FILES):
                action.complete = shtab.FILE
        subparsers.add_parser(name, help=text, parents=[arguments], add_help=False)
    return shtab.complete(parser, shell, preamble=_FUNCTIONS)
