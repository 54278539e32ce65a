"""Origin of a result besides its config: the weights that were read, and the code."""

from __future__ import annotations

import ast
import functools
import hashlib
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

import open_clip
import torch

import vlm_dense

PACKAGE = Path(vlm_dense.__file__).parent
SUFFIXES = ('.pt', '.pth', '.safetensors', '.bin', '.npz', '.ckpt')
"""Suffixes of files of weights."""


def code_digest(folder: Path = PACKAGE) -> str:
    """Digest of all code and data tables of a package, of torch and of open_clip, without comments and docstrings.

    Programs and comparison do not count either: they select runs and print results.
    """
    files = sorted(
        p
        for p in folder.rglob('*')
        if p.suffix in ('.py', '.json', '.txt')
        and not {'__pycache__', 'cli', 'comparison'} & set(p.relative_to(folder).parts)
    )
    return _code_digest(tuple((p, p.stat().st_mtime_ns, p.stat().st_size) for p in files), folder)


@functools.cache
def _code_digest(files: tuple[tuple[Path, int, int], ...], folder: Path) -> str:
    digest = hashlib.sha256(f'torch {torch.__version__} open_clip {open_clip.__version__}'.encode())
    for path, *_ in files:
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(_meaning(path))
    return digest.hexdigest()


def imports_digest(cfg: Mapping) -> str:
    """Digest of the modules outside of this package that ``custom_imports`` of a config names; '' without any.

    Comments and docstrings do not count, nor what the modules import; of a package all modules count.
    """
    names = (cfg.get('custom_imports') or {}).get('imports') or []
    names = [names] if isinstance(names, str) else names
    specs = [find_spec(name) for name in names if name.partition('.')[0] != PACKAGE.name]
    digest = hashlib.sha256()
    for spec in filter(None, specs):  # a missing one ends the run, unless the config allows it
        folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
        files = sorted(path for folder in folders for path in folder.rglob('*.py')) or [Path(spec.origin)]
        for path in files:
            digest.update(f'{spec.name} {path.name}'.encode())
            digest.update(_meaning(path))
    return digest.hexdigest() if any(specs) else ''


def _meaning(path: Path) -> bytes:
    """A file without what changes no result."""
    if path.suffix != '.py':
        return path.read_bytes()
    tree = ast.parse(path.read_text(encoding='utf-8'))
    for node in ast.walk(tree):
        body = getattr(node, 'body', None)
        if isinstance(body, list):
            node.body = [line for line in body if not _is_text(line)]
    return ast.dump(tree).encode()


def _is_text(line: ast.stmt) -> bool:
    return isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant) and isinstance(line.value.value, str)


def weights_digest(cfg: dict) -> str:
    """Digest of the content of all files of weights that a config names, the bundled ones included."""
    digest = hashlib.sha256()
    for path in sorted(set(_weights(cfg))):
        digest.update(os.path.basename(path).encode())
        digest.update(file_digest(path, os.stat(path).st_mtime_ns, os.path.getsize(path)))
    return digest.hexdigest()


@functools.cache
def file_digest(path: str, changed: int, size: int) -> bytes:
    """Digest of a file's content; read again when its time or its size changed."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').digest() if hasattr(hashlib, 'file_digest') else _digest_of(file)


def _digest_of(file) -> bytes:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.digest()


def _weights(node) -> Iterator[str]:
    if isinstance(node, dict):
        if node.get('pretrained') == 'bundled' and isinstance(node.get('arch'), str):
            bundled = PACKAGE / 'clip' / 'bundled' / f'{node["arch"]}.safetensors'
            if bundled.is_file():
                yield str(bundled)
        node = node.values()
    elif isinstance(node, str):
        if node.endswith(SUFFIXES) and os.path.isfile(node):
            yield node
        return
    elif not isinstance(node, (list, tuple)):
        return
    for value in node:
        yield from _weights(value)
