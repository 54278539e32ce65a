"""The tensors of a TorchScript archive, read without torch's loader, which would run the program in it.

An archive is a zip of ``data.pkl`` (the tree of modules, pickled), ``data/<n>`` (the bytes of each storage) and
``code/`` (TorchScript source, which also says which attributes are parameters and buffers). Here the pickle is read by
an unpickler that knows tensors, containers and inert objects only, and the source as text.
"""

from __future__ import annotations

import pickle
import posixpath
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

_DTYPES = dict(
    BFloat16Storage=torch.bfloat16,
    BoolStorage=torch.bool,
    ByteStorage=torch.uint8,
    CharStorage=torch.int8,
    DoubleStorage=torch.float64,
    FloatStorage=torch.float32,
    HalfStorage=torch.float16,
    IntStorage=torch.int32,
    LongStorage=torch.int64,
    ShortStorage=torch.int16,
)
_LISTS = ('build_boollist', 'build_doublelist', 'build_intlist', 'build_tensorlist')
_CLASS = re.compile(r'^class (\w+)\((\w+)\):\n((?:  .*\n|\n)*)', re.MULTILINE)
_NAMES = re.compile(r'^  __(parameters|buffers)__ = \[(.*?)\]', re.MULTILINE | re.DOTALL)


class _Module:
    """An object of a TorchScript class: its attributes, and nothing that runs."""

    kind: str

    def __setstate__(self, state: object) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Unpickler(pickle.Unpickler):
    """Builds tensors, lists, ordered dicts and inert modules; refuses everything else by name."""

    def __init__(self, archive: zipfile.ZipFile, folder: str):
        super().__init__(archive.open(posixpath.join(folder, 'data.pkl')))
        self.archive, self.folder = archive, folder
        self.storages: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> object:
        if module.split('.')[0] == '__torch__':
            return type('_Module', (_Module,), dict(kind=f'{module}.{name}'))
        if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
            return lambda storage, offset, size, stride, *_: storage.as_strided(size, stride, offset)
        if (module, name) == ('collections', 'OrderedDict'):
            return OrderedDict
        if module == 'torch' and name in _DTYPES:
            return _DTYPES[name]
        if module == 'torch.jit._pickle' and name in (*_LISTS, 'restore_type_tag'):
            return lambda value, *_: value
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {module}.{name} was not an allowed global')

    def persistent_load(self, found: tuple) -> Tensor:
        """The storage ``('storage', type, number, device, length)`` as a tensor of one dimension."""
        _, dtype, number, _, length = found
        if number not in self.storages:
            content = bytearray(self.archive.read(posixpath.join(self.folder, 'data', number)))
            storage = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
            if len(storage) != length:
                raise ValueError(f'the storage {number} has {len(storage)} values, expected {length}')
            self.storages[number] = storage
        return self.storages[number]


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters and buffers of a TorchScript module, by their dotted names; nothing in the archive is run.

    Args:
        path: An archive as ``torch.jit.save`` writes it, OpenAI's releases of CLIP among them.

    Returns:
        Name -> tensor, as ``torch.jit.load(path).state_dict()``; a module that has several names is listed once.

    Raises:
        pickle.UnpicklingError: It holds objects of another kind.
        ValueError, KeyError, RuntimeError, zipfile.BadZipFile: It is damaged.
    """
    with zipfile.ZipFile(path) as archive:
        folder = next(posixpath.dirname(name) for name in archive.namelist() if name.endswith('/constants.pkl'))
        module = _Unpickler(archive, folder).load()
        if not isinstance(module, _Module):
            raise ValueError(f'its root is a {type(module).__name__}, no module')
        return dict(_tensors(module, _stored_names(archive, folder)))


def _stored_names(archive: zipfile.ZipFile, folder: str) -> dict[str, set[str]]:
    """TorchScript class -> names of its parameters and buffers, from the text of its source.

    A class with a source that does not list its buffers, as older versions of torch wrote it, is left out.
    """
    names = {}
    for part in archive.namelist():
        if part.startswith(f'{folder}/code/') and part.endswith('.py'):
            module = part.removeprefix(f'{folder}/code/').removesuffix('.py').replace('/', '.')
            for found in _CLASS.finditer(archive.read(part).decode()):
                listed = dict(_NAMES.findall(found[3]))
                if 'buffers' in listed:
                    names[f'{module}.{found[1]}'] = set(re.findall(r'"([^"]*)"', ''.join(listed.values())))
    return names


def _tensors(root: _Module, stored: dict[str, set[str]]) -> Iterator[tuple[str, Tensor]]:
    todo, seen = [('', root)], {id(root)}
    while todo:
        prefix, module = todo.pop()
        for name, value in module.attributes.items():
            if isinstance(value, Tensor) and name in stored.get(module.kind, (name,)):
                yield prefix + name, value
            elif isinstance(value, _Module) and id(value) not in seen:
                seen.add(id(value))
                todo.append((f'{prefix}{name}.', value))
