"""Configs by name: where they are, in a clone or in an installed package.

Nothing heavy is imported here, so that a program can look for its config before it imports torch.
"""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Collection
from pathlib import Path

from vlm_dense.errors import ConfigError, unknown_name

_PACKAGE = Path(__file__).parents[2]
ROOT = _PACKAGE.parent if (_PACKAGE.parent / 'model-index.yml').is_file() else _PACKAGE / '.mim'
"""Folder of ``configs``, ``tools`` and ``model-index.yml``: the clone, or the copy in a wheel."""

CONFIGS = ROOT / 'configs'

BUNDLED = 'bundled://'
"""Beginning of the name of a checkpoint that comes with the package: the name of its config follows."""

_WEIGHTS, _SUFFIX = _PACKAGE / 'data' / 'weights', '.safetensors.xz'


def list_configs(folder: str | Path) -> list[Path]:
    """All config files in a folder and in its folders, one a method; those that begin with ``_`` are left out."""
    found = (path for pattern in ('*.py', '*/*.py') for path in Path(folder).glob(pattern))
    return sorted(path for path in found if not path.parent.name.startswith('_'))


def find_config(path: str | Path) -> Path:
    """The config file at ``path``, or the one that ``path`` is another way to write.

    Configs lie in a folder a method, ``configs/coop/coop_shapes.py``; the short way to them,
    ``configs/coop_shapes.py``, is found as well. What is not at the place that the path names, and is no place of the
    user's own, is looked for in the configs of vlm_dense: ``coop_shapes``, ``coop/coop_shapes``,
    ``vlm_dense::coop/coop_shapes.py``, and ``configs/coop_shapes.py`` where there is no clone.

    Args:
        path: Path or name of a config, which need not exist.

    Returns:
        The path of the file, or ``path`` itself if there is none or more than one.

    Examples:
        >>> find_config('coop_shapes').relative_to(CONFIGS).as_posix()
        'coop/coop_shapes.py'
        >>> find_config('configs/no-such-method.py').name
        'no-such-method.py'
    """
    path = Path(path)
    if path.is_file():
        return path
    return _only(path) or _own(path) or path


def _only(path: Path) -> Path | None:
    """The only config of that file name in the folder of ``path``."""
    found = [p for p in list_configs(path.parent) if p.name == path.name]
    return found[0] if len(found) == 1 else None


def _own(path: Path) -> Path | None:
    """The config of vlm_dense of that name; None for places of the user's own."""
    name = path.as_posix().removeprefix('vlm_dense::').removeprefix('configs/').removesuffix('.py')
    if path.is_absolute() or name.count('/') > 1 or '..' in path.parts:
        return None
    own = CONFIGS / f'{name}.py'
    return own if own.is_file() else None if '/' in name else _only(own)


def existing_config(path: str | Path, others: Collection[str] = ()) -> Path:
    """The config file that :func:`find_config` finds.

    Args:
        path: Path or name of a config.
        others: Further names that may stand instead of a config, for the message.

    Raises:
        ConfigError: there is none; names the nearest ones.
    """
    found = find_config(path)
    if found.is_file():
        return found
    path = Path(path)
    folder = path.parent if path.parent.is_dir() and str(path.parent) != '.' else CONFIGS
    known = list_configs(folder)
    if path.suffix != '.py' and len(path.parts) == 1:
        raise ConfigError(unknown_name(str(path), 'list of models of vlm_dense', {*others, *(p.stem for p in known)}))
    names = {p.name for p in known}
    near = difflib.get_close_matches(path.name, names, n=3) or sorted(names)[:8]
    hint = f' In {folder} there are: {", ".join(near)}.' if near else ''
    raise ConfigError(f'Config {path} does not exist (looked from {os.getcwd()}).{hint}')


def bundled_names() -> list[str]:
    """Names of the configs of the package that a checkpoint comes with."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in _WEIGHTS.glob(f'*{_SUFFIX}'))


def bundled_file(name: str) -> Path:
    """Where the checkpoint of a config of the package lies, if one comes with it."""
    return _WEIGHTS / f'{name}{_SUFFIX}'


def bundled_checkpoint(config: str | Path | None) -> str | None:
    """The checkpoint that comes with a config of the package, ``bundled://NAME``; None without.

    Args:
        config: Its path, or the name of a config.
    """
    if config is None:
        return None
    path = find_config(config).resolve()
    own = CONFIGS.resolve() in path.parents and bundled_file(path.stem).is_file()
    return f'{BUNDLED}{path.stem}' if own else None


def bases(tree: ast.Module) -> list[str]:
    """Names in ``_base_`` of a parsed config; none if it is an expression, which mmengine evaluates."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(getattr(t, 'id', None) == '_base_' for t in node.targets):
            try:
                found = ast.literal_eval(node.value)
            except ValueError:
                return []
            return [found] if isinstance(found, str) else [base for base in found if isinstance(base, str)]
    return []
