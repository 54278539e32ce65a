"""Where the config of a name is."""

from __future__ import annotations

from pathlib import Path


def list_configs(folder: str | Path) -> list[Path]:
    """All config files in a folder and in its folders, one a method; ``_base_`` is not looked into."""
    return sorted(p for pattern in ('*.py', '*/*.py') for p in Path(folder).glob(pattern) if p.parent.name != '_base_')


def find_config(path: str | Path) -> Path:
    """The config file at ``path``, or the one of that name in a folder beside it.

    Configs lie in a folder a method, ``configs/coop/coop_shapes.py``; the short way to them,
    ``configs/coop_shapes.py``, is found as well.

    Args:
        path: Path of a config, which need not exist.

    Returns:
        The path of the file, or ``path`` itself if there is none or more than one.

    Examples:
        >>> find_config('configs/no-such-method.py').name
        'no-such-method.py'
    """
    path = Path(path)
    found = [] if path.is_file() else [p for p in list_configs(path.parent) if p.name == path.name]
    return found[0] if len(found) == 1 else path
